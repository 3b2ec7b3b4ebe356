// Operators value by value, most of them in bfloat16, each result rounded once; joining. Needs values.h.
#include <algorithm>
#include <cmath>
#include <vector>

namespace elementwise {
using values::bfloat16;
using values::load;
using values::store;

// y = Σ x over K activations of n values, times `slope` where the sum is negative.
template <int K>
void add(int64_t n, const bfloat16* const (&x)[K], float slope_, bfloat16* y) {
    const float slope = values::hidden(slope_);
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) {
        float sum = 0;
        for (int k = 0; k < K; ++k) sum += load(x[k][i]);
        store(y[i], sum > 0 ? sum : sum * slope);
    }
}

inline void round(int64_t n, const float* x, bfloat16* y) {
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) store(y[i], x[i]);
}

// Copies N rows of `size` values, which begin `step_x` and `step_y` values apart. Pieces of a row are tasks,
// because there may be fewer rows than threads.
template <class T>
void copy_rows(int64_t N, int64_t size, const T* x, int64_t step_x, T* y, int64_t step_y) {
    const int64_t piece = 1 << 14;
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; ++n)
        for (int64_t i = 0; i < size; i += piece)
            std::copy_n(x + n * step_x + i, std::min(piece, size - i), y + n * step_y + i);
}

// y = a and then b, image by image, of A and B values.
template <class T>
void join(int64_t N, int64_t A, int64_t B, const T* a, const T* b, T* y) {
    copy_rows(N, A, a, A, y, A + B);
    copy_rows(N, B, b, B, y + A, A + B);
}

// The gradients of `join`.
template <class T>
void separate(int64_t N, int64_t A, int64_t B, const T* dy, T* da, T* db) {
    copy_rows(N, A, dy, A + B, da, A);
    copy_rows(N, B, dy + A, A + B, db, B);
}

// False for NaN and infinity. (-Ofast assumes that std::isfinite is always true.)
inline bool is_finite(float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return (bits & 0x7f800000) != 0x7f800000;
}

// y = p where x is finite, NaN elsewhere.
template <class T>
void mark_lost(int64_t n, const T* p, const T* x, T* y) {
    const T nan = values::hidden(T(NAN));
    #pragma omp parallel for simd
    for (int64_t i = 0; i < n; ++i) y[i] = is_finite(x[i]) ? p[i] : nan;
}

// y = x + bias, times `slope` where the sum is negative. `rows`: N·G planes of P pixels with B channels.
template <int B>
void bias_activated(int64_t rows, int64_t G, int64_t P, const bfloat16* x, const float* bias,
                    float slope_, bfloat16* y) {
    const float slope = values::hidden(slope_);
    #pragma omp parallel for collapse(2)
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < P; ++i)
            for (int b = 0; b < B; ++b) {
                const int64_t at = (row * P + i) * B + b;
                const float z = load(x[at]) + bias[row % G * B + b];
                store(y[at], z > 0 ? z : z * slope);
            }
}

// y = bias + Σ w·x over the channels of a pixel: N images of G planes of P pixels with B channels.
template <int B>
void weighted_channels(int64_t N, int64_t G, int64_t P, const bfloat16* x, const float* w, const float* bias,
                       float* y) {
    #pragma omp parallel for collapse(2)
    for (int64_t n = 0; n < N; ++n)
        for (int64_t i = 0; i < P; ++i) {
            float sum = *bias;
            for (int64_t g = 0; g < G; ++g)
                for (int b = 0; b < B; ++b) sum += load(x[((n * G + g) * P + i) * B + b]) * w[g * B + b];
            y[n * P + i] = sum;
        }
}

// Mean over P pixels per row and channel, in double precision. Parts of a row are tasks, because there
// may be fewer rows than threads.
template <int B, class T>
void means(int64_t rows, int64_t P, const T* x, double* mean) {
    const int64_t size = 1024, parts = (P + size - 1) / size;
    std::vector<double> totals(rows * parts * B);
    #pragma omp parallel for collapse(2)
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t part = 0; part < parts; ++part) {
            double total[B] = {};
            for (int64_t i = part * size; i < std::min(P, (part + 1) * size); ++i)
                for (int b = 0; b < B; ++b) total[b] += load(x[(row * P + i) * B + b]);
            std::copy(total, total + B, &totals[(row * parts + part) * B]);
        }
    for (int64_t row = 0; row < rows; ++row)
        for (int b = 0; b < B; ++b) {
            double total = 0;
            for (int64_t part = 0; part < parts; ++part) total += totals[(row * parts + part) * B + b];
            mean[row * B + b] = total / P;
        }
}

}  // namespace elementwise
