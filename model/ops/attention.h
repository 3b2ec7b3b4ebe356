// θ of an LLSKM when predicting, in double precision: 1×1 → norm → ReLU → 1×1 → norm → sigmoid.
// Needs values.h.
#include <cmath>
#include <vector>

namespace attention {

// A batch norm.
struct Norm {
    const float *weight, *bias, *mean, *var;
    double operator()(int64_t c, double x, double eps) const {
        return (x - mean[c]) / std::sqrt(var[c] + eps) * weight[c] + bias[c];
    }
};

// N×C means to N×C weights, by way of H hidden channels.
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

}  // namespace attention
