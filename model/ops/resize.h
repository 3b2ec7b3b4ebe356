// Resizing of activations in blocks of channels, for prediction. Needs values.h.
#include <algorithm>
#include <vector>

namespace resize {
using values::load;

// Linear interpolation along an axis with half-pixel centres: new pixel i lies between the old pixels
// low[i] and high[i]; the weight of high[i] is fraction[i].
struct Between {
    std::vector<int64_t> low, high;
    std::vector<float> fraction;
    Between(int64_t size, int64_t new_size) : low(new_size), high(new_size), fraction(new_size) {
        for (int64_t i = 0; i < new_size; ++i) {
            const double centre = std::max((i + 0.5) * size / new_size - 0.5, 0.0);
            low[i] = std::min(int64_t(centre), size - 1);
            high[i] = std::min(low[i] + 1, size - 1);
            fraction[i] = centre - low[i];
        }
    }
};

// y = fine + ReLU(coarse, resized bilinearly), P planes with B channels each.
template <int B, class T>
void add_resized(int64_t P, int64_t h, int64_t w, const T* coarse, int64_t H, int64_t W,
                 const T* fine, T* y) {
    const Between rows(h, H), columns(w, W);
    const float zero = values::hidden(0.f);
    #pragma omp parallel for
    for (int64_t row = 0; row < P * H; ++row) {
        const int64_t plane = row / H * h, r = row % H;
        const T* above = coarse + (plane + rows.low[r]) * w * B;
        const T* below = coarse + (plane + rows.high[r]) * w * B;
        const float down = rows.fraction[r];
        for (int64_t i = 0; i < W; ++i) {
            const int64_t left = columns.low[i] * B, right = columns.high[i] * B;
            const float aside = columns.fraction[i];
            for (int b = 0; b < B; ++b) {
                const float top = load(above[left + b]) * (1 - aside) + load(above[right + b]) * aside;
                const float low = load(below[left + b]) * (1 - aside) + load(below[right + b]) * aside;
                const float value = top * (1 - down) + low * down;
                values::store(y[(row * W + i) * B + b], load(fine[(row * W + i) * B + b])
                                                        + (value > 0 ? value : value * zero));
            }
        }
    }
}

// From a 3×3 kernel w, O×C×3×3, the kernel k, C×O×4×4, of the transposed convolution of stride 2 that
// equals doubling the size and then convolving with w. Each value of x becomes 2×2 equal values, so each
// tap of w is added at four places of k.
inline void doubling_kernel(int64_t O, int64_t C, const float* w, float* k) {
    #pragma omp parallel for
    for (int64_t c = 0; c < C; ++c)
        for (int64_t o = 0; o < O; ++o) {
            double sum[4][4] = {};
            for (int tap = 0; tap < 9; ++tap)
                for (int place = 0; place < 4; ++place)
                    sum[2 - tap / 3 + place / 2][2 - tap % 3 + place % 2] += w[(o * C + c) * 9 + tap];
            for (int i = 0; i < 16; ++i) k[(c * O + o) * 16 + i] = sum[i / 4][i % 4];
        }
}

// From a 3×3 kernel w, O×C×3×3, the kernel k, 4·O×C×3×3, that computes the pixels (0, 0), (0, 1), (1, 0) and
// (1, 1) of each 2×2 after doubling the size, one after the other. Tap t of w at the pixel i of two, along an
// axis, reads the old pixel (i + t + 1) / 2 of three.
inline void kernel_of_four(int64_t O, int64_t C, const float* w, float* k) {
    #pragma omp parallel for collapse(2)
    for (int64_t pixel = 0; pixel < 4; ++pixel)
        for (int64_t i = 0; i < O * C; ++i) {
            double sum[9] = {};
            for (int tap = 0; tap < 9; ++tap)
                sum[(pixel / 2 + tap / 3 + 1) / 2 * 3 + (pixel % 2 + tap % 3 + 1) / 2] += w[i * 9 + tap];
            for (int j = 0; j < 9; ++j) k[(pixel * O * C + i) * 9 + j] = sum[j];
        }
}

// The results of that kernel, N×4·G×h×w×B, to their places in y, N×G×2h×2w×B.
template <int B, class T>
void join_four(int64_t N, int64_t G, int64_t h, int64_t w, const T* x, T* y) {
    #pragma omp parallel for collapse(3)
    for (int64_t n = 0; n < N; ++n)
        for (int64_t g = 0; g < G; ++g)
            for (int64_t row = 0; row < 2 * h; ++row) {
                const T* left = x + (((n * 4 + row % 2 * 2) * G + g) * h + row / 2) * w * B;
                const T* right = left + G * h * w * B;
                T* to = y + ((n * G + g) * 2 * h + row) * 2 * w * B;
                for (int64_t i = 0; i < w; ++i, left += B, right += B, to += 2 * B) {
                    std::memcpy(to, left, B * sizeof(T));
                    std::memcpy(to + B, right, B * sizeof(T));
                }
            }
}

}  // namespace resize
