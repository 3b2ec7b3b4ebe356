// Convolutions of stride 1 that keep the size, by Winograd's F(2, 3) (Lavin and Gray, CVPR 2016): along an
// axis, 4 multiplications give 2 outputs of 3 taps, where 6 are usual; for a 3×3 kernel, 16 in place of 36.
//
// Words used below:
// - tile: the 4×4 inputs that give 2×2 outputs (4 and 2 along an axis on which the kernel has one tap);
// - position: one of the 16 values of a transformed tile. The transforms only add, subtract and halve;
// - part: 3 taps of a longer kernel along an axis. A 9×9 kernel is nine parts, whose outputs are added;
// - phase: every d-th pixel along both axes. A convolution of dilation d is d² plain ones, one per phase;
// - group: of a grouped convolution. A map is one group of one image.
//
// Activations are in blocks of b channels, N×C/b×H×W×b. `rows` and `columns` are true if the kernel has
// more than one tap along that axis.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <omp.h>
#include <vector>

namespace winograd {

template <int b>
struct Channels { typedef float type __attribute__((vector_size(4 * b), aligned(4))); };

template <int b>
typename Channels<b>::type load(const float* from) {
    return *reinterpret_cast<const typename Channels<b>::type*>(from);
}

template <int b>
void store(float* to, typename Channels<b>::type value) {
    *reinterpret_cast<typename Channels<b>::type*>(to) = value;
}

// The five transforms along an axis, in place.
template <class vec>
void input(vec& a, vec& b, vec& c, vec& d) {  // 4 inputs → 4 values
    const vec sum = b + c, difference = c - b;
    a -= c, d = b - d, b = sum, c = difference;
}
template <class vec>
void kernel(vec& a, vec& b, vec& c, vec& d) {  // 3 taps in a, b, c → 4 values
    const vec outer = a + c, middle = b;
    d = c, b = 0.5f * (outer + middle), c = 0.5f * (outer - middle);
}
template <class vec>
void output(vec& a, vec& b, vec c, vec d) { a += b + c, b -= c + d; }  // 4 products → 2 outputs in a, b
template <class vec>
void output_gradient(vec& a, vec& b, vec& c, vec& d) {  // gradients of 2 outputs in a, b → 4 values
    d = -b, c = a - b, b = a + b;
}
template <class vec>
void kernel_gradient(vec& a, vec& b, vec& c, vec d) {  // 4 products → gradients of 3 taps in a, b, c
    const vec sum = 0.5f * (b + c), difference = 0.5f * (b - c);
    a += sum, b = difference, c = sum + d;
}

// A buffer of floats that begins at a cache line.
class Buffer {
    std::unique_ptr<float[]> data;
public:
    explicit Buffer(int64_t size) : data(new float[size + 16]) {}
    float* begin() const { return (float*)((reinterpret_cast<uintptr_t>(data.get()) + 63) / 64 * 64); }
};

struct Axis {
    int64_t size, taps, dilation;
    int64_t parts() const { return (taps + 2) / 3; }  // kernels of three taps; 1 for a single tap
    // Index of the part's first tap, negative if the part begins before the kernel.
    int64_t first(int64_t part) const { return taps == 1 ? 0 : 3 * part - (3 * parts() - taps) / 2; }
    int64_t back(int64_t part) const { return taps / 2 - first(part); }  // from an output to its first input
    int64_t phase() const { return (size + dilation - 1) / dilation; }   // pixels of the longest phase
    int64_t tiles() const { return taps == 1 ? phase() : (phase() + 1) / 2; }
};

struct Shape {
    int64_t images, groups, inputs, outputs;  // blocks of channels per group
    Axis y, x;

    int64_t blocks() const { return y.parts() * x.parts() * inputs; }  // of all parts together
    int64_t tiles() const { return y.tiles() * x.tiles(); }
};

// T tiles of one phase of one map. (top, left) is the first output of a tile.
template <int T, bool rows, bool columns>
struct Chunk {
    const Shape& s;
    int64_t map, used, top[T], left[T];

    static int64_t per_phase(const Shape& s) { return (s.tiles() + T - 1) / T; }
    static int64_t count(const Shape& s) {
        return s.images * s.groups * s.y.dilation * s.x.dilation * per_phase(s);
    }
    Chunk(const Shape& s, int64_t index) : s(s) {
        const int64_t phases = s.y.dilation * s.x.dilation, start = index % per_phase(s) * T;
        const int64_t phase = index / per_phase(s) % phases;
        map = index / per_phase(s) / phases;
        used = std::min<int64_t>(T, s.tiles() - start);
        for (int64_t t = 0; t < T; ++t) {  // with fewer than T tiles left, the last one is repeated
            const int64_t tile = start + std::min(t, used - 1);
            top[t] = phase / s.x.dilation + s.y.dilation * (tile / s.x.tiles() * (1 + rows));
            left[t] = phase % s.x.dilation + s.x.dilation * (tile % s.x.tiles() * (1 + columns));
        }
    }
    int64_t group() const { return map % s.groups; }

    // Inputs of the tiles → v: positions × blocks × T × b.
    template <int b>
    void transform_input(const float* x, float* v) const {
        const int64_t blocks = s.blocks();
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t part = block / s.inputs;
            const float* from = x + (map * s.inputs + block % s.inputs) * s.y.size * s.x.size * b;
            const int64_t up = s.y.dilation * s.y.back(part / s.x.parts());
            const int64_t back = s.x.dilation * s.x.back(part % s.x.parts());
            for (int64_t t = 0; t < T; ++t)
                transform_tile<b>(from, top[t] - up, left[t] - back,
                                  v + (block * T + t) * b, blocks * T * b);
        }
    }

    template <int b>
    void transform_tile(const float* x, int64_t top, int64_t left, float* v, int64_t step) const {
        constexpr int height = rows ? 4 : 1, width = columns ? 4 : 1;
        const int64_t down = s.y.dilation, right = s.x.dilation;
        typename Channels<b>::type r[height][width];
        if (top >= 0 && left >= 0 && top + (height - 1) * down < s.y.size
            && left + (width - 1) * right < s.x.size) {
            #pragma GCC unroll 4
            for (int i = 0; i < height; ++i)
                #pragma GCC unroll 4
                for (int j = 0; j < width; ++j)
                    r[i][j] = load<b>(x + ((top + i * down) * s.x.size + left + j * right) * b);
        } else {
            for (int i = 0; i < height; ++i)
                for (int j = 0; j < width; ++j)
                    r[i][j] = inside<b>(x, top + i * down, left + j * right);
        }
        #pragma GCC unroll 4
        for (int j = 0; j < width; ++j)
            if (rows) input(r[0][j], r[1 * rows][j], r[2 * rows][j], r[3 * rows][j]);
        #pragma GCC unroll 4
        for (int i = 0; i < height; ++i)
            if (columns) input(r[i][0], r[i][1 * columns], r[i][2 * columns], r[i][3 * columns]);
        #pragma GCC unroll 4
        for (int i = 0; i < height; ++i)
            #pragma GCC unroll 4
            for (int j = 0; j < width; ++j) store<b>(v + (i * width + j) * step, r[i][j]);
    }

    // A pixel's b channels; zeros outside the image.
    template <int b>
    typename Channels<b>::type inside(const float* x, int64_t row, int64_t column) const {
        const bool found = row >= 0 && column >= 0 && row < s.y.size && column < s.x.size;
        return found ? load<b>(x + (row * s.x.size + column) * b) : typename Channels<b>::type{};
    }

    // The products at all positions, `step` apart → y: outputs of tile t, + bias, + added, activated.
    template <int b>
    void transform_output(const float* m, int64_t step, int64_t t, typename Channels<b>::type bias,
                          const float* added, float slope, float* y) const {
        typedef typename Channels<b>::type vec;
        constexpr int height = rows ? 4 : 1, width = columns ? 4 : 1;
        vec r[height][width];
        #pragma GCC unroll 4
        for (int i = 0; i < height; ++i)
            #pragma GCC unroll 4
            for (int j = 0; j < width; ++j) r[i][j] = load<b>(m + (i * width + j) * step);
        #pragma GCC unroll 4
        for (int j = 0; j < width; ++j)
            if (rows) output(r[0][j], r[1 * rows][j], r[2 * rows][j], r[3 * rows][j]);
        for (int i = 0; i <= rows; ++i) {
            const int64_t row = top[t] + i * s.y.dilation;
            if (columns) output(r[i][0], r[i][1 * columns], r[i][2 * columns], r[i][3 * columns]);
            for (int j = 0; j <= columns; ++j) {
                const int64_t column = left[t] + j * s.x.dilation;
                if (row >= s.y.size || column >= s.x.size) continue;
                const int64_t at = (row * s.x.size + column) * b;
                const vec z = added ? r[i][j] + bias + load<b>(added + at) : r[i][j] + bias;
                store<b>(y + at, vec(z > 0 ? z : z * slope));
            }
        }
    }

    // Gradients of the tiles' outputs → m: positions × outputs × T × b.
    template <int b>
    void transform_gradient(const float* dy, float* m) const {
        constexpr int height = rows ? 4 : 1, width = columns ? 4 : 1;
        const int64_t step = s.outputs * T * b;
        for (int64_t i = 0; i < s.outputs * T; ++i, m += b) {
            const int64_t t = i % T;
            const float* from = dy + (map * s.outputs + i / T) * s.y.size * s.x.size * b;
            typename Channels<b>::type r[height][width] = {};
            if (t < used)
                for (int i = 0; i <= rows; ++i)
                    for (int j = 0; j <= columns; ++j)
                        r[i][j] = inside<b>(from, top[t] + i * s.y.dilation, left[t] + j * s.x.dilation);
            #pragma GCC unroll 2
            for (int j = 0; j <= columns; ++j)
                if (rows) output_gradient(r[0][j], r[1 * rows][j], r[2 * rows][j], r[3 * rows][j]);
            #pragma GCC unroll 4
            for (int i = 0; i < height; ++i) {
                if (columns)
                    output_gradient(r[i][0], r[i][1 * columns], r[i][2 * columns], r[i][3 * columns]);
                #pragma GCC unroll 4
                for (int j = 0; j < width; ++j) store<b>(m + (i * width + j) * step, r[i][j]);
            }
        }
    }
};

// Where the weights of a group lie: outputs × inputs × taps. For the gradient of the input (`backward`) the
// weights of the forward convolution are read with inputs and outputs exchanged and the taps reversed.
template <int b>
struct Weights {
    int64_t taps, step_in, step_out;
    bool backward;

    Weights(const Shape& s, bool backward)
        : taps(s.y.taps * s.x.taps), step_in(backward ? s.outputs * b * taps : taps),
          step_out(backward ? taps : s.inputs * b * taps), backward(backward) {}
    int64_t tap(int64_t i) const { return backward ? taps - 1 - i : i; }
};

// Calls f(i, j, tap) for each tap of the kernel that lies in the part, at its row i and column j.
template <class F>
void for_taps(const Shape& s, int64_t part, F f) {
    const int64_t top = s.y.first(part / s.x.parts()), left = s.x.first(part % s.x.parts());
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) {
            const int64_t y = top + i, x = left + j;
            if (y >= 0 && x >= 0 && y < s.y.taps && x < s.x.taps) f(i, j, y * s.x.taps + x);
        }
}

// Transforms the kernels of a group for one block of output channels.
// u: outputs/O × positions × blocks·b × O·b.
template <int b, int O, bool rows, bool columns>
void transform_kernels(const Shape& s, const float* w, const Weights<b>& in, int64_t block_out, float* u) {
    typedef typename Channels<b>::type vec;
    constexpr int height = rows ? 4 : 1, width = columns ? 4 : 1;
    const int64_t step = s.blocks() * b * O * b;
    u += block_out / O * height * width * step + block_out % O * b;
    for (int64_t row = 0; row < s.blocks() * b; ++row) {
        const int64_t part = row / (s.inputs * b), c = row % (s.inputs * b);
        vec r[4][4] = {};
        for_taps(s, part, [&](int i, int j, int64_t tap) {
            const float* from = w + c * in.step_in + in.tap(tap) + block_out * b * in.step_out;
            for (int k = 0; k < b; ++k) r[i][j][k] = from[k * in.step_out];
        });
        for (int j = 0; j < 3; ++j)
            if (rows) kernel(r[0][j], r[1][j], r[2][j], r[3][j]);
        for (int i = 0; i < height; ++i) {
            if (columns) kernel(r[i][0], r[i][1], r[i][2], r[i][3]);
            for (int j = 0; j < width; ++j) store<b>(u + (i * width + j) * step + row * O * b, r[i][j]);
        }
    }
}

// m = v·u at one position, for T tiles and O blocks of output channels. All sums stay in registers.
// v: blocks × T × b;  u: blocks·b × O·b;  m: O × T × b.
template <int b, int T, int O>
void multiply(int64_t blocks, const float* v, const float* u, float* m) {
    typename Channels<b>::type sum[T][O];
    #pragma GCC unroll 32
    for (int t = 0; t < T; ++t)
        #pragma GCC unroll 2
        for (int o = 0; o < O; ++o) sum[t][o] = typename Channels<b>::type{};
    for (int64_t block = 0; block < blocks; ++block, v += T * b)
        for (int c = 0; c < b; ++c, u += O * b)
            #pragma GCC unroll 32
            for (int t = 0; t < T; ++t)
                #pragma GCC unroll 2
                for (int o = 0; o < O; ++o) sum[t][o] += v[t * b + c] * load<b>(u + o * b);
    #pragma GCC unroll 32
    for (int t = 0; t < T; ++t)
        #pragma GCC unroll 2
        for (int o = 0; o < O; ++o) store<b>(m + (o * T + t) * b, sum[t][o]);
}

template <int b, int T, int O, bool rows, bool columns>
void convolve(const Shape& s, const float* x, const float* w, bool backward, const float* bias,
              const float* added, float slope, float* y) {
    typedef Chunk<T, rows, columns> Tiles;
    constexpr int positions = (rows ? 4 : 1) * (columns ? 4 : 1);
    const int64_t plane = s.y.size * s.x.size * b, blocks = s.blocks(), matrix = blocks * b * O * b;
    const int64_t kernels = positions * s.outputs / O * matrix;
    const Weights<b> weights(s, backward);
    const Buffer u(s.groups * kernels);
    #pragma omp parallel
    {
        #pragma omp for collapse(2)
        for (int64_t g = 0; g < s.groups; ++g)
            for (int64_t o = 0; o < s.outputs; ++o)
                transform_kernels<b, O, rows, columns>(
                    s, w + g * s.inputs * b * s.outputs * b * weights.taps, weights, o,
                    u.begin() + g * kernels);
        const Buffer v(positions * blocks * T * b), m(positions * O * T * b);
        #pragma omp for
        for (int64_t index = 0; index < Tiles::count(s); ++index) {
            const Tiles chunk(s, index);
            chunk.template transform_input<b>(x, v.begin());
            for (int64_t o = 0; o < s.outputs; o += O) {
                const float* own = u.begin() + chunk.group() * kernels + o / O * positions * matrix;
                for (int64_t i = 0; i < positions; ++i)
                    multiply<b, T, O>(blocks, v.begin() + i * blocks * T * b, own + i * matrix,
                                      m.begin() + i * O * T * b);
                for (int64_t out = o; out < o + O; ++out) {
                    const int64_t at = (chunk.map * s.outputs + out) * plane;
                    const auto shift = bias ? load<b>(bias + (chunk.group() * s.outputs + out) * b)
                                            : typename Channels<b>::type{};
                    for (int64_t t = 0; t < chunk.used; ++t)
                        chunk.template transform_output<b>(
                            m.begin() + ((out - o) * T + t) * b, O * T * b, t, shift,
                            added ? added + at : nullptr, slope, y + at);
                }
            }
        }
    }
}

// du += Σ v·m over T tiles, for C input channels and O blocks of output channels.
// v: T × b, m: O × T × b, du: C rows of O·b, `row` apart.
template <int b, int T, int C, int O>
void add_outer(const float* v, const float* m, float* du, int64_t row) {
    typename Channels<b>::type sum[C][O];
    #pragma GCC unroll 16
    for (int c = 0; c < C; ++c)
        #pragma GCC unroll 2
        for (int o = 0; o < O; ++o) sum[c][o] = load<b>(du + c * row + o * b);
    for (int t = 0; t < T; ++t)
        #pragma GCC unroll 16
        for (int c = 0; c < C; ++c)
            #pragma GCC unroll 2
            for (int o = 0; o < O; ++o) sum[c][o] += v[t * b + c] * load<b>(m + (o * T + t) * b);
    #pragma GCC unroll 16
    for (int c = 0; c < C; ++c)
        #pragma GCC unroll 2
        for (int o = 0; o < O; ++o) store<b>(du + c * row + o * b, sum[c][o]);
}

template <int b, int T, int C, int O, bool rows, bool columns>
void kernel_gradients(const Shape& s, const float* x, const float* dy, float* dw) {
    typedef typename Channels<b>::type vec;
    typedef Chunk<T, rows, columns> Tiles;
    constexpr int height = rows ? 4 : 1, width = columns ? 4 : 1, positions = height * width;
    const int64_t blocks = s.blocks(), row = s.outputs * b, kernels = positions * blocks * b * row;
    const int64_t threads = omp_get_max_threads();
    const Weights<b> weights(s, false);
    const Buffer sums(threads * s.groups * kernels);  // of each thread: positions × blocks·b × outputs·b
    std::vector<char> used(threads * s.groups);  // most threads see few groups
    #pragma omp parallel
    {
        const Buffer v(positions * blocks * T * b), m(positions * s.outputs * T * b);
        #pragma omp for schedule(static)
        for (int64_t index = 0; index < Tiles::count(s); ++index) {
            const Tiles chunk(s, index);
            chunk.template transform_input<b>(x, v.begin());
            chunk.template transform_gradient<b>(dy, m.begin());
            const int64_t own = omp_get_thread_num() * s.groups + chunk.group();
            float* du = sums.begin() + own * kernels;
            if (!used[own]) std::fill_n(du, kernels, 0.0f);
            used[own] = true;
            for (int64_t i = 0; i < positions * blocks; ++i, du += b * row)
                for (int64_t o = 0; o < s.outputs; o += O)
                    for (int c = 0; c < b; c += C)
                        add_outer<b, T, C, O>(v.begin() + i * T * b + c,
                                              m.begin() + (i / blocks * s.outputs + o) * T * b,
                                              du + c * row + o * b, row);
        }
        #pragma omp for
        for (int64_t i = 0; i < s.groups * blocks * b * s.outputs; ++i) {
            const int64_t o = i % s.outputs, in = i / s.outputs % (blocks * b);
            const int64_t g = i / s.outputs / (blocks * b), c = in % (s.inputs * b);
            vec r[4][4] = {};
            for (int64_t copy = g; copy < threads * s.groups; copy += s.groups)
                for (int p = 0; used[copy] && p < positions; ++p)
                    r[p / width][p % width] += load<b>(
                        sums.begin() + copy * kernels + (p * blocks * b + in) * row + o * b);
            for (int j = 0; j < width; ++j)
                if (rows) kernel_gradient(r[0][j], r[1][j], r[2][j], r[3][j]);
            for (int k = 0; k < 3; ++k)
                if (columns) kernel_gradient(r[k][0], r[k][1], r[k][2], r[k][3]);
            float* to = dw + ((g * s.outputs + o) * b * s.inputs * b + c) * weights.taps;
            for_taps(s, in / (s.inputs * b), [&](int i, int j, int64_t tap) {
                for (int k = 0; k < b; ++k) to[k * weights.step_out + tap] = r[i][j][k];
            });
        }
    }
}

template <class Settings>
Shape shape_of(jittor::Var* x, jittor::Var* y, jittor::Var* w, Settings& settings) {
    const int64_t groups = settings["groups"], axes = w->shape.size();
    return {x->shape[0], groups, x->shape[1] / groups, y->shape[1] / groups,
            {x->shape[2], w->shape[axes - 2], (int)settings["dilation_h"]},
            {x->shape[3], w->shape[axes - 1], (int)settings["dilation_w"]}};
}

// T·O sums, and what is multiplied, fill the vector registers: 32 for blocks of 16 channels, else 16.
// Without a bias there is no activation.
template <int b, bool rows, bool columns, class Settings>
void run(jittor::Var* x, jittor::Var* w, jittor::Var* bias, jittor::Var* added, jittor::Var* y,
         Settings& settings) {
    const Shape s = shape_of(x, y, w, settings);
    const auto chosen = s.outputs % 2 ? convolve<b, b == 16 ? 28 : 12, 1, rows, columns>
                                      : convolve<b, b == 16 ? 14 : 6, 2, rows, columns>;
    chosen(s, x->ptr<float>(), w->ptr<float>(), bool(settings["backward"]),
           bias ? bias->ptr<float>() : nullptr, added ? added->ptr<float>() : nullptr,
           bias ? float(settings["slope"]) : 1, y->ptr<float>());
}

template <int b, bool rows, bool columns, class Settings>
void gradient(jittor::Var* x, jittor::Var* dy, jittor::Var* dw, Settings& settings) {
    const Shape s = shape_of(x, dy, dw, settings);
    const auto chosen = s.outputs % 2 ? kernel_gradients<b, 28, b, 1, rows, columns>
                                      : kernel_gradients<b, 28, b / 2, 2, rows, columns>;
    chosen(s, x->ptr<float>(), dy->ptr<float>(), dw->ptr<float>());
}

}  // namespace winograd
