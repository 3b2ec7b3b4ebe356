"""Batch norm with PyTorch's semantics and sums in double precision, its activation fused in.

Jittor's own layer keeps a biased running variance, and takes E[x²] − E[x]² of float32 sums that
it adds up one element after another: 5e-4 off in the outputs at the training size.
"""

from __future__ import annotations

import numpy as np

from model.ops.layout import per_channel, shape_of
from utils.runtime import jt

MOMENTUM, EPS = 0.1, 1e-5
RELU, LEAKY, LINEAR = 0.0, 0.1, 1.0  # slopes of the activation where its input is negative

_HEADER = """
#include <algorithm>
#include <cmath>
#include <vector>
"""

# -Ofast would fold NaN * 0 into 0, and a ReLU hide that the training has gone wrong.
_SLOPE = "static volatile double slope_in_memory = {};"

# Both forms of activations are rows of `W` pixels with `B` channels each; a row is a task, and its
# sums are added up in a fixed order, so that the result does not depend on the number of threads.
_ROWS = """
const double slope = slope_in_memory;
const int64 N = in0_shape0, G = in0_shape1, H = in0_shape2, W = in0_shape3;
const int64 C = G * B, rows = N * G * H;
auto group_of = [&](int64 row) { return row / H % G; };
"""

_SUM_UP = """
std::vector<double> sum(C), moment(C);
for (int64 row = 0; row < rows; ++row)
    for (int b = 0; b < B; ++b) {
        sum[group_of(row) * B + b] += part[row * 2 * B + b];
        moment[group_of(row) * B + b] += part[row * 2 * B + B + b];
    }
"""

_STATISTICS = """
std::vector<double> part(rows * 2 * B);
#pragma omp parallel for
for (int64 row = 0; row < rows; ++row) {
    const float* x = in0_p + row * W * B;
    double s[B] = {}, q[B] = {};
    for (int64 i = 0; i < W; ++i)
        for (int b = 0; b < B; ++b) {
            double v = x[i * B + b];
            s[b] += v;
            q[b] += v * v;
        }
    std::copy(s, s + B, &part[row * 2 * B]);
    std::copy(q, q + B, &part[row * 2 * B + B]);
}
""" + _SUM_UP + """
for (int64 c = 0; c < C; ++c) {
    const double mean = sum[c] / (N * H * W);
    out1_p[c] = mean;
    out2_p[c] = std::max(moment[c] / (N * H * W) - mean * mean, 0.0);
}
"""

# With `mean` and `var` of the batch, or those that run.
_NORMALISE = """
#pragma omp parallel for
for (int64 row = 0; row < rows; ++row) {
    const int64 c = group_of(row) * B;
    double scale[B], shift[B];
    for (int b = 0; b < B; ++b) {
        scale[b] = in1_p[c + b] / std::sqrt(var[c + b] + EPS);
        shift[b] = in2_p[c + b] - mean[c + b] * scale[b];
    }
    const float* x = in0_p + row * W * B;
    float* y = out0_p + row * W * B;
    for (int64 i = 0; i < W; ++i)
        for (int b = 0; b < B; ++b) {
            double z = x[i * B + b] * scale[b] + shift[b];
            y[i * B + b] = z > 0 ? z : z * slope;
        }
}
"""

# z is the activation's input, recomputed rather than kept. With h = (x − mean)/std,
# dx = scale·(dz − mean(dz) − h·mean(dz·h)).
_BACKWARD = _ROWS + """
std::vector<double> rstd(C), scale(C), shift(C);
for (int64 c = 0; c < C; ++c) {
    rstd[c] = 1 / std::sqrt(in5_p[c] + EPS);
    scale[c] = in2_p[c] * rstd[c];
    shift[c] = in3_p[c] - in4_p[c] * scale[c];
}
std::vector<double> part(rows * 2 * B);
#pragma omp parallel for
for (int64 row = 0; row < rows; ++row) {
    const int64 c = group_of(row) * B;
    const float *x = in0_p + row * W * B, *dy = in1_p + row * W * B;
    double s[B] = {}, m[B] = {};
    for (int64 i = 0; i < W; ++i)
        for (int b = 0; b < B; ++b) {
            double v = x[i * B + b], d = dy[i * B + b];
            double dz = v * scale[c + b] + shift[c + b] > 0 ? d : d * slope;
            s[b] += dz;
            m[b] += dz * (v - in4_p[c + b]);
        }
    std::copy(s, s + B, &part[row * 2 * B]);
    std::copy(m, m + B, &part[row * 2 * B + B]);
}
""" + _SUM_UP + """
for (int64 c = 0; c < C; ++c) {
    out1_p[c] = moment[c] * rstd[c];
    out2_p[c] = sum[c];
}
#pragma omp parallel for
for (int64 row = 0; row < rows; ++row) {
    const int64 c = group_of(row) * B;
    double mean_dz[B], slope_dz[B];
    for (int b = 0; b < B; ++b) {
        mean_dz[b] = sum[c + b] / (N * H * W);
        slope_dz[b] = rstd[c + b] * rstd[c + b] * moment[c + b] / (N * H * W);
    }
    const float *x = in0_p + row * W * B, *dy = in1_p + row * W * B;
    float* dx = out0_p + row * W * B;
    for (int64 i = 0; i < W; ++i)
        for (int b = 0; b < B; ++b) {
            double v = x[i * B + b], d = dy[i * B + b];
            double dz = v * scale[c + b] + shift[c + b] > 0 ? d : d * slope;
            dx[i * B + b] = scale[c + b] * (dz - mean_dz[b] - (v - in4_p[c + b]) * slope_dz[b]);
        }
}
"""


def _header(x, slope):
    block = x.shape[4] if x.ndim == 5 else 1
    return f"{_HEADER}\n#define EPS {EPS}\n#define B {block}\n{_SLOPE.format(slope)}\n"


class _NormCPU(jt.Function):
    """Batch statistics, normalisation and activation in two passes over memory."""

    def __init__(self, slope):
        self.slope = slope

    def execute(self, x, weight, bias):
        channels = weight.shape
        y, mean, var = jt.code(
            [x.shape, channels, channels], ["float32", "float64", "float64"], [x, weight, bias],
            cpu_header=_header(x, self.slope),
            cpu_src=f"{_ROWS}{_STATISTICS}const double *mean = out1_p, *var = out2_p;{_NORMALISE}",
        )
        self.saved = x, weight, bias, mean, var
        return y, mean, var

    def grad(self, dy, *_):
        x, weight, bias, mean, var = self.saved
        return jt.code(
            [x.shape, weight.shape, bias.shape], ["float32"] * 3,
            [x, dy, weight, bias, mean, var],
            cpu_header=_header(x, self.slope), cpu_src=_BACKWARD,
        )


def activate(z, slope):
    """z where it is positive, z·slope elsewhere. (A maximum with 0 would turn NaN into 0.)"""
    return z if slope == LINEAR else jt.ternary(z > 0, z, z * slope)


def _norm_any_device(x, weight, bias, slope):
    """The same from Jittor's operators, for CUDA and for activations in double precision."""
    x64 = x.float64()
    mean = x64.mean((0, 2, 3)).reshape(-1)
    centred = x64 - per_channel(mean, x)
    var = centred.sqr().mean((0, 2, 3)).reshape(-1)
    scale = weight.float64() / jt.sqrt(var + EPS)
    z = centred * per_channel(scale, x) + per_channel(bias.float64(), x)
    return activate(z, slope).cast(x.dtype), mean, var


class BatchNorm(jt.Module):
    """Batch norm over activations in either form of `model.ops.layout`, and an activation after it.

    Args:
        channels: C.
        slope: of the activation: LINEAR is none, RELU, LEAKY is LeakyReLU(0.1).
    """

    def __init__(self, channels, slope):
        self.weight = jt.array(np.ones(channels, np.float32))
        self.bias = jt.array(np.zeros(channels, np.float32))
        self.running_mean = jt.array(np.zeros(channels, np.float32)).stop_grad()
        self.running_var = jt.array(np.ones(channels, np.float32)).stop_grad()
        self.slope = float(slope)

    def execute(self, x, conv_bias=None):
        """Normalises `x` + `conv_bias`, the bias of the convolution before.

        Batch statistics cancel that bias, so in training it only moves the running mean, and its
        gradient is exactly zero. (Autograd sums up its rounding errors instead.)
        """
        if self.is_training():
            return self._train(x, conv_bias)
        mean = self.running_mean.float64()
        if conv_bias is not None:
            mean = mean - conv_bias.float64()
        if x.ndim == 5:  # only the CPU has these, and nothing is differentiated here
            return jt.code(
                x.shape, "float32", [x, self.weight, self.bias, mean, self.running_var.float64()],
                cpu_header=_header(x, self.slope),
                cpu_src=f"{_ROWS}const double *mean = in3_p, *var = in4_p;{_NORMALISE}",
            )
        scale = self.weight.float64() / jt.sqrt(self.running_var.float64() + EPS)
        shift = self.bias.float64() - mean * scale
        z = x.float64() * per_channel(scale, x) + per_channel(shift, x)
        return activate(z, self.slope).cast(x.dtype)

    def _train(self, x, conv_bias):
        n, _, h, w = shape_of(x)
        count = n * h * w
        if count < 2:
            raise ValueError("batch norm has one value a channel to normalise: train on batches "
                             "of two images or more, and call net.eval() to predict")
        bias = self.bias
        if conv_bias is not None:
            bias = bias + conv_bias * 0.0  # its gradient is zero, not absent
        if jt.flags.use_cuda or x.dtype == "float64":
            y, mean, var = _norm_any_device(x, self.weight, bias, self.slope)
        else:
            y, mean, var = _NormCPU(self.slope)(x, self.weight, bias)
        unbiased = var.detach() * (count / (count - 1))
        mean = mean.detach()
        if conv_bias is not None:
            mean = mean + conv_bias.detach()
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.update((running * (1 - MOMENTUM) + new * MOMENTUM).float32())
        return y
