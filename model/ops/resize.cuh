// Changing height and width, N×C planes of H×W values. Needs block.cuh.

namespace resize {

// y, planes of 2H×2W, from x, planes of H×W, by repeating each value.
__global__ void double_size(int64_t n, int64_t W, const float* x, float* y) {
    const int64_t i = thread_of_grid();
    if (i < n) y[i] = x[i / (4 * W) * W + i % (2 * W) / 2];
}

__global__ void double_size_gradient(int64_t n, int64_t W, const float* dy, float* dx) {
    const int64_t i = thread_of_grid();
    if (i >= n) return;
    const float* d = dy + i / W * 4 * W + i % W * 2;
    dx[i] = (d[0] + d[1]) + (d[2 * W] + d[2 * W + 1]);
}

// Linear interpolation along an axis with half-pixel centres: new value i lies between the old values
// `low` and `high`; `fraction` is the weight of `high`. Integers in units of 1/(2·new_size) keep the
// position exact.
struct Between {
    int low, high;
    float fraction;
    __device__ Between(int i, int size, int new_size) {
        const int64_t position = (2 * int64_t(i) + 1) * size - new_size;
        const int64_t clamped = position < 0 ? 0 : position;
        low = int(clamped / (2 * new_size));
        fraction = float(clamped % (2 * new_size)) / float(2 * new_size);
        high = low + 1 < size ? low + 1 : size - 1;
    }
    // The weight of old value j.
    __device__ float weight(int j) const {
        return (low == j ? 1 - fraction : 0) + (high == j ? fraction : 0);
    }
};

// The new values in [first_from, end_from) are all to which old value i may contribute.
__device__ inline int first_from(int i, int size, int new_size) {
    const int64_t first = (2 * int64_t(i) - 1) * new_size / (2 * int64_t(size)) - 1;
    return first < 0 ? 0 : int(first);
}

__device__ inline int end_from(int i, int size, int new_size) {
    const int64_t end = (2 * int64_t(i) + 3) * new_size / (2 * int64_t(size)) + 1;
    return end > new_size ? new_size : int(end);
}

// y, planes of H×W, from x, planes of h×w.
__global__ void bilinear(int64_t n, int h, int w, int H, int W, const float* x, float* y) {
    const int64_t i = thread_of_grid();
    if (i >= n) return;
    const Between row(int(i / W % H), h, H), column(int(i % W), w, W);
    const float* plane = x + i / W / H * h * w;
    const float *above = plane + int64_t(row.low) * w, *below = plane + int64_t(row.high) * w;
    const float top = above[column.low] * (1 - column.fraction) + above[column.high] * column.fraction;
    const float low = below[column.low] * (1 - column.fraction) + below[column.high] * column.fraction;
    y[i] = top * (1 - row.fraction) + low * row.fraction;
}

// dx, planes of h×w, gathered from dy, planes of H×W.
__global__ void bilinear_gradient(int64_t n, int h, int w, int H, int W, const float* dy, float* dx) {
    const int64_t i = thread_of_grid();
    if (i >= n) return;
    const int r = int(i / w % h), c = int(i % w);
    const float* plane = dy + i / w / h * H * W;
    const int rows = end_from(r, h, H), columns = end_from(c, w, W);
    float sum = 0;
    for (int k = first_from(r, h, H); k < rows; ++k) {
        const float weight = Between(k, h, H).weight(r);
        if (weight == 0) continue;
        float of_row = 0;
        for (int l = first_from(c, w, W); l < columns; ++l)
            of_row += Between(l, w, W).weight(c) * plane[int64_t(k) * W + l];
        sum += weight * of_row;
    }
    dx[i] = sum;
}

}  // namespace resize
