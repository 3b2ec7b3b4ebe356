// 2×2 max-pool of planes of H×W values, and its gradient. Needs block.cuh.
#include <cstdint>

namespace pool {

// One thread per value of y. `taken`: index 0 to 3 of the largest value; of equal values, the first.
__global__ void largest(int64_t n, int H, int W, const float* x, float* y, int8_t* taken) {
    const int64_t i = thread_of_grid();
    if (i >= n) return;
    const int h = H / 2, w = W / 2;
    const float* corner = x + i / w / h * H * W + i / w % h * 2 * W + i % w * 2;
    float best = corner[0];
    int which = 0;
    for (int k = 1; k < 4; ++k) {
        const float value = corner[k / 2 * W + k % 2];
        if (value > best) {
            best = value;
            which = k;
        }
    }
    y[i] = best;
    taken[i] = which;
}

// One thread per value of dx. An odd last row or column was not pooled: its gradient is 0.
__global__ void gradient(int64_t n, int H, int W, const float* dy, const int8_t* taken, float* dx) {
    const int64_t i = thread_of_grid();
    if (i >= n) return;
    const int h = H / 2, w = W / 2, row = int(i / W % H), column = int(i % W);
    const int64_t from = i / W / H * h * w + int64_t(row / 2) * w + column / 2;
    const bool inside = row / 2 < h && column / 2 < w;
    dx[i] = inside && taken[from] == row % 2 * 2 + column % 2 ? dy[from] : 0;
}

}  // namespace pool
