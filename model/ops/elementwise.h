// Sums of activations in bfloat16, each rounded once. Needs values.h.
#include <algorithm>
#include <vector>

namespace elementwise {
using values::bfloat16;
using values::load;
using values::store;

// y = Σ sign·x over K activations of n values, times `slope` where that is negative.
template <int K>
void add(int64_t n, const bfloat16* const (&x)[K], const float (&sign)[K], float slope_,
         bfloat16* y) {
    const float slope = values::hidden(slope_);
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) {
        float sum = 0;
        for (int k = 0; k < K; ++k) sum += sign[k] * load(x[k][i]);
        store(y[i], sum > 0 ? sum : sum * slope);
    }
}

// From the activation's output y and the gradient of that, the gradient of its input.
inline void gradient(int64_t n, const bfloat16* y, const bfloat16* dy, float slope, bfloat16* dx) {
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) store(dx[i], load(y[i]) > 0 ? load(dy[i]) : load(dy[i]) * slope);
}

inline void round(int64_t n, const float* x, bfloat16* y) {
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) store(y[i], x[i]);
}

// N×G rows of P pixels with B channels: y = x + bias.
template <int B>
void add_bias(int64_t N, int64_t G, int64_t P, const bfloat16* x, const float* bias, bfloat16* y) {
    #pragma omp parallel for collapse(2)
    for (int64_t row = 0; row < N * G; ++row)
        for (int64_t i = 0; i < P; ++i)
            for (int b = 0; b < B; ++b) {
                const int64_t at = (row * P + i) * B + b;
                store(y[at], load(x[at]) + bias[row % G * B + b]);
            }
}

// The sums over each image and channel, N×G×B, in double precision: in parts, for there may be fewer
// rows than threads.
template <int B>
void sums(int64_t N, int64_t G, int64_t P, const bfloat16* x, double scale, double* sum) {
    const int64_t size = 1024, parts = (P + size - 1) / size;
    std::vector<double> totals(N * G * parts * B);
    #pragma omp parallel for collapse(2)
    for (int64_t row = 0; row < N * G; ++row)
        for (int64_t part = 0; part < parts; ++part) {
            double total[B] = {};
            for (int64_t i = part * size; i < std::min(P, (part + 1) * size); ++i)
                for (int b = 0; b < B; ++b) total[b] += load(x[(row * P + i) * B + b]);
            std::copy(total, total + B, &totals[(row * parts + part) * B]);
        }
    for (int64_t row = 0; row < N * G; ++row)
        for (int b = 0; b < B; ++b) {
            double total = 0;
            for (int64_t part = 0; part < parts; ++part) total += totals[(row * parts + part) * B + b];
            sum[row * B + b] = total * scale;
        }
}

// Each image's and channel's value, N×G×B, at all its pixels.
template <int B>
void spread(int64_t N, int64_t G, int64_t P, const double* value, double scale, bfloat16* y) {
    #pragma omp parallel for
    for (int64_t row = 0; row < N * G; ++row) {
        bfloat16 rounded[B];
        for (int b = 0; b < B; ++b) store(rounded[b], value[row * B + b] * scale);
        for (int64_t i = 0; i < P; ++i)
            for (int b = 0; b < B; ++b) y[(row * P + i) * B + b] = rounded[b];
    }
}

// N images of A rows of R values, and of B rows, one behind the other.
inline void join(int64_t N, int64_t A, int64_t B, int64_t R, const bfloat16* a, const bfloat16* b,
                 bfloat16* y) {
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; ++n)
        for (int64_t row = 0; row < A + B; ++row)
            std::memcpy(y + (n * (A + B) + row) * R,
                        row < A ? a + (n * A + row) * R : b + (n * B + row - A) * R, R * sizeof *y);
}

}  // namespace elementwise
