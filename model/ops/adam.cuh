// One step of Adam for many parameters at once. Needs block.cuh.

namespace adam {

constexpr int AT_ONCE = 32;  // the table below has to fit into 4096 bytes of kernel arguments

struct Tensor {
    const float *p, *g, *m, *v;
    float *new_p, *new_m, *new_v;
    int64_t size;
};

struct Tensors {
    Tensor tensor[AT_ONCE];
};

struct Settings {
    float share1, decay2, share2, eps, step_size, correction;  // share = 1 − β, decay = β
};

// Number of segments of the largest of the first `count` tensors.
inline int segments(const Tensors& all, int count) {
    int64_t largest = 0;
    for (int i = 0; i < count; ++i)
        if (all.tensor[i].size > largest) largest = all.tensor[i].size;
    return int((largest + SEGMENT - 1) / SEGMENT);
}

// Block t·segments + s takes segment s of tensor t; if the tensor is smaller, the block has nothing to do.
__global__ void update(Tensors tensors, int segments, Settings s) {
    const Tensor& t = tensors.tensor[blockIdx.x / segments];
    const int64_t first = int64_t(blockIdx.x % segments) * SEGMENT;
    const int64_t last = first + SEGMENT < t.size ? first + SEGMENT : t.size;
    for (int64_t i = first + threadIdx.x; i < last; i += THREADS) {
        const float g = t.g[i];
        const float m = t.m[i] + (g - t.m[i]) * s.share1;
        const float v = t.v[i] * s.decay2 + g * g * s.share2;
        t.new_m[i] = m;
        t.new_v[i] = v;
        t.new_p[i] = t.p[i] - m / (sqrtf(v) / s.correction + s.eps) * s.step_size;
    }
}

}  // namespace adam
