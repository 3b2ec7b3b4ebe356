// 2×2 max-pool of activations in blocks of channels, and its gradient. Needs values.h.

namespace pool {
using values::load;

// P planes (N×G) of H×W pixels of B channels.
struct Shape {
    int64_t P, H, W;
};

// `taken`: index 0 to 3 of the largest of the four values; of equal values, the first.
template <int B>
void largest(const Shape& in, const float* x, const Shape& out, float* y, int8_t* taken) {
    const int64_t step[] = {0, B, in.W * B, in.W * B + B};
    #pragma omp parallel for
    for (int64_t row = 0; row < out.P * out.H; ++row) {
        const float* corner = x + (row / out.H * in.H + row % out.H * 2) * in.W * B;
        for (int64_t i = 0; i < out.W; ++i) {
            const float* candidates = corner + i * 2 * B;
            float best[B];
            int which[B] = {};
            for (int b = 0; b < B; ++b) best[b] = candidates[b];
            for (int k = 1; k < 4; ++k)
                for (int b = 0; b < B; ++b) {
                    const float value = candidates[step[k] + b];
                    which[b] = value > best[b] ? k : which[b];
                    best[b] = value > best[b] ? value : best[b];
                }
            for (int b = 0; b < B; ++b) y[(row * out.W + i) * B + b] = best[b];
            for (int b = 0; b < B; ++b) taken[(row * out.W + i) * B + b] = which[b];
        }
    }
}

// Max-pool without a gradient.
template <int B, class T>
void largest(const Shape& in, const T* x, const Shape& out, T* y) {
    const int64_t below = in.W * B;
    #pragma omp parallel for
    for (int64_t row = 0; row < out.P * out.H; ++row) {
        const T* from = x + (row / out.H * in.H + row % out.H * 2) * in.W * B;
        for (int64_t i = 0; i < out.W; ++i, from += 2 * B)
            #pragma omp simd
            for (int b = 0; b < B; ++b) {
                float best = load(from[b]), value = load(from[B + b]);
                best = value > best ? value : best;
                value = load(from[below + b]);
                best = value > best ? value : best;
                value = load(from[below + B + b]);
                best = value > best ? value : best;
                values::store_exact(y[(row * out.W + i) * B + b], best);
            }
    }
}

template <int B>
void gradient(const Shape& out, const float* dy, const int8_t* taken, const Shape& in, float* dx) {
    #pragma omp parallel for
    for (int64_t row = 0; row < in.P * in.H; ++row) {
        const int64_t plane = row / in.H, h = row % in.H;
        for (int64_t w = 0; w < in.W; ++w) {
            float* result = dx + (row * in.W + w) * B;
            const bool inside = h / 2 < out.H && w / 2 < out.W;  // false in an odd last row or column
            const int64_t from = inside ? ((plane * out.H + h / 2) * out.W + w / 2) * B : 0;
            for (int b = 0; b < B; ++b)
                result[b] = inside && taken[from + b] == h % 2 * 2 + w % 2 ? dy[from + b] : 0;
        }
    }
}

}  // namespace pool
