// Batch norm and the activation after it, of activations in either form.
//
// Both forms are rows of W pixels with B channels each. A row is a task, and the sums of rows are
// added up in a fixed order, so that the result does not depend on the number of threads.
// Needs values.h.
#include <algorithm>
#include <cmath>
#include <vector>

namespace batch_norm {
using values::load;
using values::store;

// N×G×H rows: N images of G groups of B channels, H rows each.
struct Shape {
    int64_t N, G, H, W;
    int64_t rows() const { return N * G * H; }
    int64_t pixels() const { return N * H * W; }
    int64_t group_of(int64_t row) const { return row / H % G; }
};

// From two sums over each row, `part`, those over each channel: C of the first, then C of the second.
template <int B>
void sum_up(const Shape& s, const std::vector<double>& part, double* sums) {
    std::fill(sums, sums + 2 * s.G * B, 0.);
    for (int64_t row = 0; row < s.rows(); ++row)
        for (int b = 0; b < B; ++b) {
            sums[s.group_of(row) * B + b] += part[row * 2 * B + b];
            sums[(s.G + s.group_of(row)) * B + b] += part[row * 2 * B + B + b];
        }
}

// Of each channel the sums of values and of squares, and at the end the number of pixels: what
// ranks that share a batch add up.
template <int B, class In>
void sums(const Shape& s, const In* x, double* sums) {
    std::vector<double> part(s.rows() * 2 * B);
    #pragma omp parallel for
    for (int64_t row = 0; row < s.rows(); ++row) {
        const In* pixel = x + row * s.W * B;
        double total[B] = {}, squares[B] = {};
        for (int64_t i = 0; i < s.W; ++i)
            for (int b = 0; b < B; ++b) {
                double v = load(pixel[i * B + b]);
                total[b] += v;
                squares[b] += v * v;
            }
        std::copy(total, total + B, &part[row * 2 * B]);
        std::copy(squares, squares + B, &part[row * 2 * B + B]);
    }
    sum_up<B>(s, part, sums);
    sums[2 * s.G * B] = s.pixels();
}

// From them mean and biased variance of each channel.
template <int B>
void moments(const Shape& s, const double* sums, double* mean, double* var) {
    const int64_t channels = s.G * B;
    const double pixels = sums[2 * channels];
    for (int64_t c = 0; c < channels; ++c) {
        mean[c] = sums[c] / pixels;
        var[c] = std::max(sums[channels + c] / pixels - mean[c] * mean[c], 0.0);
    }
}

template <int B, class In>
void statistics(const Shape& s, const In* x, double* mean, double* var) {
    std::vector<double> of_channels(2 * s.G * B + 1);
    sums<B>(s, x, of_channels.data());
    moments<B>(s, of_channels.data(), mean, var);
}

// What it is when predicting, y = scale·x + shift, of C channels. `conv_bias`, if there is one, is
// that of the convolution before, which x comes without.
template <class Shift>
void fold(int64_t C, const float* weight, const float* bias, const float* mean, const float* var,
          const float* conv_bias, double eps, double* scale, Shift* shift) {
    for (int64_t c = 0; c < C; ++c) {
        scale[c] = weight[c] / std::sqrt(var[c] + eps);
        shift[c] = bias[c] - (mean[c] - (conv_bias ? double(conv_bias[c]) : 0)) * scale[c];
    }
}

// A kernel of `size` values, one row of them for each of C channels, that has it in it.
inline void fold_into(int64_t C, int64_t size, const float* kernel, const float* weight,
                      const float* bias, const float* mean, const float* var,
                      const float* conv_bias, double eps, float* folded, float* shift) {
    std::vector<double> scale(C);
    fold(C, weight, bias, mean, var, conv_bias, eps, scale.data(), shift);
    const int64_t row = size / C;
    #pragma omp parallel for
    for (int64_t c = 0; c < C; ++c)
        for (int64_t i = c * row; i < (c + 1) * row; ++i) folded[i] = scale[c] * kernel[i];
}

// `slope` is the activation's where its input is negative.
template <int B, class In, class Out>
void normalise(const Shape& s, const In* x, const float* weight, const float* bias,
               const double* mean, const double* var, double eps, double slope_, Out* y) {
    typedef typename values::Computed<Out>::type Real;
    const Real slope = slope_;
    #pragma omp parallel for
    for (int64_t row = 0; row < s.rows(); ++row) {
        const int64_t c = s.group_of(row) * B;
        Real scale[B], shift[B];
        for (int b = 0; b < B; ++b) {
            const double factor = weight[c + b] / std::sqrt(var[c + b] + eps);
            scale[b] = factor;
            shift[b] = bias[c + b] - mean[c + b] * factor;
        }
        const In* pixel = x + row * s.W * B;
        Out* result = y + row * s.W * B;
        for (int64_t i = 0; i < s.W; ++i)
            for (int b = 0; b < B; ++b) {
                Real z = load(pixel[i * B + b]) * scale[b] + shift[b];
                store(result[i * B + b], z > 0 ? z : z * slope);
            }
    }
}

// How x is normalised when training.
template <class Real>
struct Affine {
    std::vector<double> rstd;
    std::vector<Real> scale, shift, centre;
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

// Of each channel the sums of dz and of dz·(x − mean), and from them the gradients of weight and
// bias. z is the activation's input, recomputed rather than kept.
template <int B, class In, class Out>
void backward_sums(const Shape& s, const In* x, const Out* dy, const float* weight,
                   const float* bias, const double* mean, const double* var, double eps,
                   double slope_, double* sums, float* dweight, float* dbias) {
    typedef typename values::Computed<Out>::type Real;
    const Real slope = slope_;
    const int64_t channels = s.G * B;
    const Affine<Real> a(channels, weight, bias, mean, var, eps);
    std::vector<double> part(s.rows() * 2 * B);
    #pragma omp parallel for
    for (int64_t row = 0; row < s.rows(); ++row) {
        const int64_t c = s.group_of(row) * B;
        const In* pixel = x + row * s.W * B;
        const Out* given = dy + row * s.W * B;
        double total[B] = {}, moment[B] = {};
        for (int64_t i = 0; i < s.W; ++i)
            for (int b = 0; b < B; ++b) {
                Real v = load(pixel[i * B + b]), d = load(given[i * B + b]);
                Real dz = v * a.scale[c + b] + a.shift[c + b] > 0 ? d : d * slope;
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

// From those sums over `pixels`: with h = (x − mean)/std, dx = scale·(dz − mean(dz) − h·mean(dz·h)).
template <int B, class In, class Out>
void backward_values(const Shape& s, const In* x, const Out* dy, const float* weight,
                     const float* bias, const double* mean, const double* var, double eps,
                     double slope_, double pixels, const double* sums, In* dx) {
    typedef typename values::Computed<Out>::type Real;
    const Real slope = slope_;
    const int64_t channels = s.G * B;
    const Affine<Real> a(channels, weight, bias, mean, var, eps);
    #pragma omp parallel for
    for (int64_t row = 0; row < s.rows(); ++row) {
        const int64_t c = s.group_of(row) * B;
        Real mean_dz[B], slope_dz[B];
        for (int b = 0; b < B; ++b) {
            mean_dz[b] = sums[c + b] / pixels;
            slope_dz[b] = a.rstd[c + b] * a.rstd[c + b] * sums[channels + c + b] / pixels;
        }
        const In* pixel = x + row * s.W * B;
        const Out* given = dy + row * s.W * B;
        In* result = dx + row * s.W * B;
        for (int64_t i = 0; i < s.W; ++i)
            for (int b = 0; b < B; ++b) {
                Real v = load(pixel[i * B + b]), d = load(given[i * B + b]);
                Real dz = v * a.scale[c + b] + a.shift[c + b] > 0 ? d : d * slope;
                store(result[i * B + b],
                      a.scale[c + b] * (dz - mean_dz[b] - (v - a.centre[c + b]) * slope_dz[b]));
            }
    }
}

template <int B, class In, class Out>
void backward(const Shape& s, const In* x, const Out* dy, const float* weight, const float* bias,
              const double* mean, const double* var, double eps, double slope, In* dx,
              float* dweight, float* dbias) {
    std::vector<double> sums(2 * s.G * B);
    backward_sums<B>(s, x, dy, weight, bias, mean, var, eps, slope, sums.data(), dweight, dbias);
    backward_values<B>(s, x, dy, weight, bias, mean, var, eps, slope, s.pixels(), sums.data(), dx);
}

}  // namespace batch_norm
