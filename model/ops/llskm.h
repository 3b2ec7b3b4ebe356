// LLSKM when predicting, in double precision: θ, and the kernels that it makes. Needs values.h.
#include <cmath>
#include <vector>

namespace llskm {

// A batch norm.
struct Norm {
    const float *weight, *bias, *mean, *var;
    double operator()(int64_t c, double x, double eps) const {
        return (x - mean[c]) / std::sqrt(var[c] + eps) * weight[c] + bias[c];
    }
};

// θ: 1×1 → norm → ReLU → 1×1 → norm → sigmoid, N×C means to N×C weights by way of H hidden channels.
inline void theta(int64_t C, int64_t H, int64_t N, const double* mean, const float* first,
                  const float* second, Norm hidden, Norm last, double eps, double* y) {
    std::vector<double> values(H);
    const double zero = values::hidden(0.);
    for (int64_t n = 0; n < N; ++n) {
        for (int64_t h = 0; h < H; ++h) {
            double sum = 0;
            for (int64_t c = 0; c < C; ++c) sum += first[h * C + c] * mean[n * C + c];
            const double z = hidden(h, sum, eps);
            values[h] = z > 0 ? z : z * zero;
        }
        for (int64_t c = 0; c < C; ++c) {
            double sum = 0;
            for (int64_t h = 0; h < H; ++h) sum += second[c * H + h] * values[h];
            y[n * C + c] = 1 / (1 + std::exp(-last(c, sum, eps)));
        }
    }
}

// Each image's kernels, N×C×C×K×K: scale·(δ·(W_sum + θ∘W_c) − W) of W, C×C×K×K.
inline void kernels(int64_t N, int64_t C, int64_t K, const float* weight, const double* theta,
                    const double* scale, float* y) {
    const int64_t taps = K * K, centre = taps / 2;
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; ++n)
        for (int64_t o = 0; o < C; ++o)
            for (int64_t c = 0; c < C; ++c) {
                const float* w = weight + (o * C + c) * taps;
                float* k = y + ((n * C + o) * C + c) * taps;
                double sum = 0;
                for (int64_t i = 0; i < taps; ++i) sum += w[i];
                for (int64_t i = 0; i < taps; ++i) k[i] = -scale[o] * w[i];
                k[centre] = scale[o] * (sum + theta[n * C + o] * w[centre] - w[centre]);
            }
}

// The separable form's at the centre, N×C×C×1×1: scale·(W_sum + θ∘W_c), each the product of those of
// a row and a column, C×C×K.
inline void centres(int64_t N, int64_t C, int64_t K, const float* row, const float* column,
                    const double* theta, const double* scale, float* y) {
    #pragma omp parallel for
    for (int64_t o = 0; o < C; ++o)
        for (int64_t c = 0; c < C; ++c) {
            const float *r = row + (o * C + c) * K, *l = column + (o * C + c) * K;
            double across = 0, down = 0;
            for (int64_t i = 0; i < K; ++i) across += r[i], down += l[i];
            const double centre = double(r[K / 2]) * l[K / 2];
            for (int64_t n = 0; n < N; ++n)
                y[(n * C + o) * C + c] = scale[o] * (across * down + theta[n * C + o] * centre);
        }
}

}  // namespace llskm
