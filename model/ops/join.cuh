// The channels of one activation and then those of another. Needs block.cuh.

namespace joining {

// One thread per value of y. A, B: number of values per image in a and b.
__global__ void join(int64_t n, int64_t A, int64_t B, const float* a, const float* b, float* y) {
    const int64_t i = thread_of_grid();
    if (i >= n) return;
    const int64_t image = i / (A + B), at = i % (A + B);
    y[i] = at < A ? a[image * A + at] : b[image * B + at - A];
}

__global__ void separate(int64_t n, int64_t A, int64_t B, const float* dy, float* da, float* db) {
    const int64_t i = thread_of_grid();
    if (i >= n) return;
    const int64_t image = i / (A + B), at = i % (A + B);
    if (at < A)
        da[image * A + at] = dy[i];
    else
        db[image * B + at - A] = dy[i];
}

}  // namespace joining
