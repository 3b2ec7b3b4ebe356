// Sums over the pixels of activations, N×C×H×W. Needs block.cuh.

namespace sums {

// part: the sum per segment.
__global__ void of_segments(Planes p, const float* x, double* part) {
    const Segment s(p);
    double sum[1] = {0};
    for (int i = s.first + threadIdx.x; i < s.last; i += THREADS) sum[0] += x[s.base + i];
    sum_over_block(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum[0];
}

// part: the sum of products per segment.
__global__ void of_products(Planes p, const float* a, const float* b, double* part) {
    const Segment s(p);
    double sum[1] = {0};
    for (int i = s.first + threadIdx.x; i < s.last; i += THREADS)
        sum[0] += double(a[s.base + i]) * b[s.base + i];
    sum_over_block(sum);
    if (threadIdx.x == 0) part[blockIdx.x] = sum[0];
}

// One block per plane: the sum of its segments, times `scale`.
__global__ void of_planes(Planes p, const double* part, double scale, double* y) {
    double sum[1] = {0};
    for (int i = threadIdx.x; i < p.segments; i += THREADS)
        sum[0] += part[int64_t(blockIdx.x) * p.segments + i];
    sum_over_block(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = sum[0] * scale;
}

// One block per channel: the sum of its segments in all N images.
__global__ void of_channels(Planes p, int64_t N, int64_t C, const double* part, float* y) {
    double sum[1] = {0};
    for (int64_t i = threadIdx.x; i < N * p.segments; i += THREADS)
        sum[0] += part[(i / p.segments * C + blockIdx.x) * p.segments + i % p.segments];
    sum_over_block(sum);
    if (threadIdx.x == 0) y[blockIdx.x] = float(sum[0]);
}

// part: the sums of p·g, p and g per segment.
__global__ void of_overlap(Planes planes, const float* p, const float* g, double* part) {
    const Segment s(planes);
    double sum[3] = {0, 0, 0};
    for (int i = s.first + threadIdx.x; i < s.last; i += THREADS) {
        const double a = p[s.base + i], b = g[s.base + i];
        sum[0] += a * b;
        sum[1] += a;
        sum[2] += b;
    }
    sum_over_block(sum);
    if (threadIdx.x < 3) part[int64_t(blockIdx.x) * 3 + threadIdx.x] = sum[threadIdx.x];
}

// One block: adds up the three sums of all segments.
__global__ void of_all(int64_t parts, const double* part, double* y) {
    double sum[3] = {0, 0, 0};
    for (int64_t i = threadIdx.x; i < parts; i += THREADS)
        for (int k = 0; k < 3; ++k) sum[k] += part[i * 3 + k];
    sum_over_block(sum);
    if (threadIdx.x < 3) y[threadIdx.x] = sum[threadIdx.x];
}

// dy: gradients of Σp·g, Σp and Σg. The gradient of p with other = g and own = 1, the index of Σp; the
// gradient of g with other = p and own = 2.
__global__ void overlap_gradient(int64_t n, const float* other, const double* dy, int own, float* dx) {
    const int64_t i = thread_of_grid();
    if (i < n) dx[i] = float(dy[0] * other[i] + dy[own]);
}

}  // namespace sums
