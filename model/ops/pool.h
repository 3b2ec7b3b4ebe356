// 2×2 max-pool of activations in blocks of channels, and its gradient. Needs values.h.

namespace pool {
using values::load;

// P planes (N×G) of H×W pixels with B channels each.
struct Shape {
    int64_t P, H, W, B;
};

// `taken` is which of the four was the largest, the first of equals.
template <class T>
void largest(const Shape& in, const T* x, const Shape& out, T* y, int8_t* taken) {
    const int64_t step[] = {0, in.B, in.W * in.B, in.W * in.B + in.B};
    #pragma omp parallel for
    for (int64_t row = 0; row < out.P * out.H; ++row) {
        const T* corner = x + (row / out.H * in.H + row % out.H * 2) * in.W * in.B;
        for (int64_t i = 0; i < out.W; ++i)
            for (int64_t b = 0; b < out.B; ++b) {
                const T* candidate = corner + i * 2 * in.B + b;
                float best = load(candidate[0]);
                int which = 0;
                for (int k = 1; k < 4; ++k) {
                    const float value = load(candidate[step[k]]);
                    which = value > best ? k : which;
                    best = value > best ? value : best;
                }
                values::store(y[(row * out.W + i) * out.B + b], best);  // exact
                taken[(row * out.W + i) * out.B + b] = which;
            }
    }
}

template <class T>
void gradient(const Shape& out, const T* dy, const int8_t* taken, const Shape& in, T* dx) {
    #pragma omp parallel for
    for (int64_t row = 0; row < in.P * in.H; ++row) {
        const int64_t plane = row / in.H, h = row % in.H;
        for (int64_t w = 0; w < in.W; ++w) {
            T* result = dx + (row * in.W + w) * in.B;
            const bool inside = h / 2 < out.H && w / 2 < out.W;  // an odd last row or column is not
            const int64_t from = inside ? ((plane * out.H + h / 2) * out.W + w / 2) * out.B : 0;
            for (int64_t b = 0; b < in.B; ++b)
                result[b] = inside && taken[from + b] == h % 2 * 2 + w % 2 ? dy[from + b] : T{};
        }
    }
}

}  // namespace pool
