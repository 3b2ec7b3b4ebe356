// Nearest upsampling of activations in blocks of channels, and its gradient. Needs values.h.

namespace resize {
using values::load;

// y, P planes of 2H×2W, from x, P planes of H×W, B channels each.
template <int B, class T>
void double_size(int64_t P, int64_t H, int64_t W, const T* x, T* y) {
    #pragma omp parallel for
    for (int64_t row = 0; row < P * 2 * H; ++row)
        for (int64_t i = 0; i < 2 * W; ++i)
            for (int b = 0; b < B; ++b)
                y[(row * 2 * W + i) * B + b] = x[(row / 2 * W + i / 2) * B + b];
}

template <int B, class T>
void double_size_gradient(int64_t P, int64_t H, int64_t W, const T* dy, T* dx) {
    #pragma omp parallel for
    for (int64_t row = 0; row < P * H; ++row)
        for (int64_t i = 0; i < W; ++i)
            for (int b = 0; b < B; ++b) {
                const T* from = dy + (row * 4 * W + i * 2) * B + b;
                const float sum = load(from[0]) + load(from[B]) + load(from[2 * W * B])
                                  + load(from[2 * W * B + B]);
                values::store(dx[(row * W + i) * B + b], sum);
            }
}

}  // namespace resize
