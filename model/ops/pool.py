"""2×2 max-pool with PyTorch's choice among equals."""

from __future__ import annotations

from utils.runtime import jt

# The gradient goes to the first of equals: `taken` is which of the four.
_POOL = """
const int64 planes = in0_shape0 * in0_shape1, H = out0_shape2, W = out0_shape3, B = out0_shape4;
#pragma omp parallel for
for (int64 row = 0; row < planes * H; ++row) {
    const int64 first = row / H * in0_shape2 * in0_shape3 * B + row % H * 2 * in0_shape3 * B;
    const int64 step[] = {0, B, in0_shape3 * B, in0_shape3 * B + B};
    for (int64 i = 0; i < W; ++i)
        for (int64 b = 0; b < B; ++b) {
            const float* x = in0_p + first + i * 2 * B + b;
            float best = x[0];
            int which = 0;
            for (int k = 1; k < 4; ++k) {
                which = x[step[k]] > best ? k : which;
                best = x[step[k]] > best ? x[step[k]] : best;
            }
            out0_p[(row * W + i) * B + b] = best;
            out1_p[(row * W + i) * B + b] = which;
        }
}
"""
_UNPOOL = """
const int64 planes = in0_shape0 * in0_shape1, H = in0_shape2, W = in0_shape3, B = in0_shape4;
#pragma omp parallel for
for (int64 row = 0; row < planes * out0_shape2; ++row) {
    const int64 plane = row / out0_shape2, h = row % out0_shape2;
    for (int64 w = 0; w < out0_shape3; ++w) {
        float* dx = out0_p + (row * out0_shape3 + w) * B;
        const bool inside = h / 2 < H && w / 2 < W;
        const int64 from = inside ? ((plane * H + h / 2) * W + w / 2) * B : 0;
        for (int64 b = 0; b < B; ++b)
            dx[b] = inside && in1_p[from + b] == h % 2 * 2 + w % 2 ? in0_p[from + b] : 0;
    }
}
"""


class _MaxPoolCPU(jt.Function):
    """2×2 max-pool of activations in blocks of channels."""

    def execute(self, x):
        n, groups, h, w, b = self.shape = x.shape
        y, self.taken = jt.code([(n, groups, h // 2, w // 2, b)] * 2, ["float32", "int8"], [x],
                                cpu_src=_POOL)
        return y

    def grad(self, dy):
        return jt.code(self.shape, "float32", [dy, self.taken], cpu_src=_UNPOOL)


def max_pool2x2(x):
    """The largest of each 2×2 block; a tie's gradient goes to the first, as PyTorch's does."""
    h, w = x.shape[2:4]
    if x.ndim == 5:
        return _MaxPoolCPU()(x)
    # Jittor's pooling refuses an input of the size of its kernel.
    if h == 2:
        return max_pool2x2(jt.concat([x, x], 2))[:, :, :1]
    if w == 2:
        return max_pool2x2(jt.concat([x, x], 3))[:, :, :, :1]
    return jt.pool.Pool(2, 2, op="maximum")(x)
