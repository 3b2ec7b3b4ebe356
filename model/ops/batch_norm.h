// Batch norm and the activation after it, of activations in either form.
//
// Both forms are rows of W pixels with B channels each; in N×C×H×W B is 1. Threads compute whole rows,
// and the sums of rows are added up in a fixed order, whatever the number of threads.
#include <algorithm>
#include <cmath>
#include <vector>

namespace batch_norm {
// N×G×H rows: N images of G groups of B channels, H rows each.
struct Shape {
    int64_t N, G, H, W;
    int64_t rows() const { return N * G * H; }
    int64_t pixels() const { return N * H * W; }
    int64_t group_of(int64_t row) const { return row / H % G; }
};

// Adds up two sums per row and channel (`part`) to two sums per channel: C of the first, C of the second.
template <int B>
void sum_up(const Shape& s, const std::vector<double>& part, double* sums) {
    std::fill(sums, sums + 2 * s.G * B, 0.);
    for (int64_t row = 0; row < s.rows(); ++row)
        for (int b = 0; b < B; ++b) {
            sums[s.group_of(row) * B + b] += part[row * 2 * B + b];
            sums[(s.G + s.group_of(row)) * B + b] += part[row * 2 * B + B + b];
        }
}

// Per-channel sums of values, then of squares, then the number of pixels. Processes that share a batch
// add these up.
template <int B>
void sums(const Shape& s, const float* x, double* sums) {
    std::vector<double> part(s.rows() * 2 * B);
    #pragma omp parallel for
    for (int64_t row = 0; row < s.rows(); ++row) {
        const float* pixel = x + row * s.W * B;
        double total[B] = {}, squares[B] = {};
        for (int64_t i = 0; i < s.W; ++i)
            for (int b = 0; b < B; ++b) {
                double v = pixel[i * B + b];
                total[b] += v;
                squares[b] += v * v;
            }
        std::copy(total, total + B, &part[row * 2 * B]);
        std::copy(squares, squares + B, &part[row * 2 * B + B]);
    }
    sum_up<B>(s, part, sums);
    sums[2 * s.G * B] = s.pixels();
}

// Per-channel mean and biased variance from the result of `sums`.
template <int B>
void moments(const Shape& s, const double* sums, double* mean, double* var) {
    const int64_t channels = s.G * B;
    const double pixels = sums[2 * channels];
    for (int64_t c = 0; c < channels; ++c) {
        mean[c] = sums[c] / pixels;
        var[c] = std::max(sums[channels + c] / pixels - mean[c] * mean[c], 0.0);
    }
}

// y = activation of normalised x; `slope` is the activation's slope for negative inputs.
template <int B>
void normalise(const Shape& s, const float* x, const float* weight, const float* bias,
               const double* mean, const double* var, double eps, double slope, float* y) {
    #pragma omp parallel for
    for (int64_t row = 0; row < s.rows(); ++row) {
        const int64_t c = s.group_of(row) * B;
        double scale[B], shift[B];
        for (int b = 0; b < B; ++b) {
            const double factor = weight[c + b] / std::sqrt(var[c + b] + eps);
            scale[b] = factor;
            shift[b] = bias[c + b] - mean[c + b] * factor;
        }
        const float* pixel = x + row * s.W * B;
        float* result = y + row * s.W * B;
        for (int64_t i = 0; i < s.W; ++i)
            for (int b = 0; b < B; ++b) {
                double z = pixel[i * B + b] * scale[b] + shift[b];
                result[i * B + b] = z > 0 ? z : z * slope;
            }
    }
}

// Per-channel constants of z = scale·x + shift; rstd is 1/std, centre the mean.
struct Affine {
    std::vector<double> rstd, scale, shift, centre;
    Affine(int64_t channels, const float* weight, const float* bias, const double* mean,
           const double* var, double eps)
        : rstd(channels), scale(channels), shift(channels), centre(mean, mean + channels) {
        for (int64_t c = 0; c < channels; ++c) {
            rstd[c] = 1 / std::sqrt(var[c] + eps);
            const double factor = weight[c] * rstd[c];
            scale[c] = factor;
            shift[c] = bias[c] - mean[c] * factor;
        }
    }
};

// Per-channel sums of dz and of dz·(x − mean), and the gradients of weight and bias, which follow from
// the sums. z is the input of the activation; it is computed again rather than kept.
template <int B>
void backward_sums(const Shape& s, const float* x, const float* dy, const float* weight,
                   const float* bias, const double* mean, const double* var, double eps,
                   double slope, double* sums, float* dweight, float* dbias) {
    const int64_t channels = s.G * B;
    const Affine a(channels, weight, bias, mean, var, eps);
    std::vector<double> part(s.rows() * 2 * B);
    #pragma omp parallel for
    for (int64_t row = 0; row < s.rows(); ++row) {
        const int64_t c = s.group_of(row) * B;
        const float* pixel = x + row * s.W * B;
        const float* given = dy + row * s.W * B;
        double total[B] = {}, moment[B] = {};
        for (int64_t i = 0; i < s.W; ++i)
            for (int b = 0; b < B; ++b) {
                double v = pixel[i * B + b], d = given[i * B + b];
                double dz = v * a.scale[c + b] + a.shift[c + b] > 0 ? d : d * slope;
                total[b] += dz;
                moment[b] += dz * (v - a.centre[c + b]);
            }
        std::copy(total, total + B, &part[row * 2 * B]);
        std::copy(moment, moment + B, &part[row * 2 * B + B]);
    }
    sum_up<B>(s, part, sums);
    for (int64_t c = 0; c < channels; ++c) {
        dweight[c] = sums[channels + c] * a.rstd[c];
        dbias[c] = sums[c];
    }
}

// dx = scale·(dz − mean(dz) − h·mean(dz·h)) with h = (x − mean)/std, from the result of `backward_sums`
// (`sums`, over `pixels` pixels).
template <int B>
void backward_values(const Shape& s, const float* x, const float* dy, const float* weight,
                     const float* bias, const double* mean, const double* var, double eps,
                     double slope, double pixels, const double* sums, float* dx) {
    const int64_t channels = s.G * B;
    const Affine a(channels, weight, bias, mean, var, eps);
    #pragma omp parallel for
    for (int64_t row = 0; row < s.rows(); ++row) {
        const int64_t c = s.group_of(row) * B;
        double mean_dz[B], factor[B];  // factor·(x − mean) = h·mean(dz·h)
        for (int b = 0; b < B; ++b) {
            mean_dz[b] = sums[c + b] / pixels;
            factor[b] = a.rstd[c + b] * a.rstd[c + b] * sums[channels + c + b] / pixels;
        }
        const float* pixel = x + row * s.W * B;
        const float* given = dy + row * s.W * B;
        float* result = dx + row * s.W * B;
        for (int64_t i = 0; i < s.W; ++i)
            for (int b = 0; b < B; ++b) {
                double v = pixel[i * B + b], d = given[i * B + b];
                double dz = v * a.scale[c + b] + a.shift[c + b] > 0 ? d : d * slope;
                result[i * B + b] =
                    a.scale[c + b] * (dz - mean_dz[b] - (v - a.centre[c + b]) * factor[b]);
            }
    }
}

}  // namespace batch_norm
