"""Batch norm with PyTorch's semantics and sums in double precision, its activation fused in.

Jittor's own layer keeps a biased running variance, and takes E[x²] − E[x]² of float32 sums that
it adds up one element after another: 5e-4 off in the outputs at the training size.
"""

from __future__ import annotations

import numpy as np

from utils.runtime import jt

MOMENTUM, EPS = 0.1, 1e-5
RELU, LEAKY, LINEAR = 0.0, 0.1, 1.0  # slopes of the activation where its input is negative

_HEADER = """
#include <algorithm>
#include <cmath>
"""

# -Ofast would fold NaN * 0 into 0, and a ReLU hide that the training has gone wrong.
_SLOPE = "static volatile double slope_in_memory = {};"

# One channel at a time, so that its second reading finds it in the cache.
_FORWARD = """
const double slope = slope_in_memory;
const int64 N = in0_shape0, C = in0_shape1, S = (int64)in0_shape2 * in0_shape3;
#pragma omp parallel for
for (int64 c = 0; c < C; ++c) {
    double sum = 0, squares = 0;
    for (int64 n = 0; n < N; ++n) {
        const float* x = in0_p + (n * C + c) * S;
        #pragma omp simd reduction(+ : sum, squares)
        for (int64 i = 0; i < S; ++i) {
            double v = x[i];
            sum += v;
            squares += v * v;
        }
    }
    const double mean = sum / (N * S), var = std::max(squares / (N * S) - mean * mean, 0.0);
    const double scale = in1_p[c] / std::sqrt(var + EPS), shift = in2_p[c] - mean * scale;
    out1_p[c] = mean;
    out2_p[c] = var;
    for (int64 n = 0; n < N; ++n) {
        const float* x = in0_p + (n * C + c) * S;
        float* y = out0_p + (n * C + c) * S;
        #pragma omp simd
        for (int64 i = 0; i < S; ++i) {
            double z = x[i] * scale + shift;
            y[i] = z > 0 ? z : z * slope;
        }
    }
}
"""

# z is the activation's input, recomputed rather than kept. With h = (x − mean)/std,
# dx = scale·(dz − mean(dz) − h·mean(dz·h)).
_BACKWARD = """
const double slope = slope_in_memory;
const int64 N = in0_shape0, C = in0_shape1, S = (int64)in0_shape2 * in0_shape3;
#pragma omp parallel for
for (int64 c = 0; c < C; ++c) {
    const double mean = in4_p[c], rstd = 1 / std::sqrt(in5_p[c] + EPS);
    const double scale = in2_p[c] * rstd, shift = in3_p[c] - mean * scale;
    double sum = 0, moment = 0;
    for (int64 n = 0; n < N; ++n) {
        const float *x = in0_p + (n * C + c) * S, *dy = in1_p + (n * C + c) * S;
        #pragma omp simd reduction(+ : sum, moment)
        for (int64 i = 0; i < S; ++i) {
            double dz = x[i] * scale + shift > 0 ? (double)dy[i] : dy[i] * slope;
            sum += dz;
            moment += dz * (x[i] - mean);
        }
    }
    moment *= rstd;
    out1_p[c] = moment;
    out2_p[c] = sum;
    const double mean_dz = sum / (N * S), slope_dz = rstd * moment / (N * S);
    for (int64 n = 0; n < N; ++n) {
        const float *x = in0_p + (n * C + c) * S, *dy = in1_p + (n * C + c) * S;
        float* dx = out0_p + (n * C + c) * S;
        #pragma omp simd
        for (int64 i = 0; i < S; ++i) {
            double dz = x[i] * scale + shift > 0 ? (double)dy[i] : dy[i] * slope;
            dx[i] = scale * (dz - mean_dz - (x[i] - mean) * slope_dz);
        }
    }
}
"""


class _NormCPU(jt.Function):
    """Batch statistics, normalisation and activation in two passes over memory."""

    def __init__(self, slope):
        self.header = f"{_HEADER}\n#define EPS {EPS}\n{_SLOPE.format(slope)}\n"

    def execute(self, x, weight, bias):
        channels = weight.shape
        y, mean, var = jt.code(
            [x.shape, channels, channels], ["float32", "float64", "float64"], [x, weight, bias],
            cpu_header=self.header, cpu_src=_FORWARD,
        )
        self.saved = x, weight, bias, mean, var
        return y, mean, var

    def grad(self, dy, *_):
        x, weight, bias, mean, var = self.saved
        return jt.code(
            [x.shape, weight.shape, bias.shape], ["float32"] * 3,
            [x, dy, weight, bias, mean, var],
            cpu_header=self.header, cpu_src=_BACKWARD,
        )


def activate(z, slope):
    """z where it is positive, z·slope elsewhere. (A maximum with 0 would turn NaN into 0.)"""
    return z if slope == LINEAR else jt.ternary(z > 0, z, z * slope)


def _norm_any_device(x, weight, bias, slope):
    """The same from Jittor's operators, for CUDA (exercised on the CPU only by the tests)."""
    x64 = x.float64()
    mean = x64.mean((0, 2, 3))
    centred = x64 - mean.reshape(1, -1, 1, 1)
    var = centred.sqr().mean((0, 2, 3))
    scale = weight.float64() / jt.sqrt(var + EPS)
    z = centred * scale.reshape(1, -1, 1, 1) + bias.float64().reshape(1, -1, 1, 1)
    return activate(z, slope).float32(), mean, var


class BatchNorm(jt.Module):
    """Batch norm over N×C×H×W, followed by an activation.

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
        scale = self.weight.float64() / jt.sqrt(self.running_var.float64() + EPS)
        shift = self.bias.float64() - mean * scale
        z = x.float64() * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return activate(z, self.slope).float32()

    def _train(self, x, conv_bias):
        count = x.shape[0] * x.shape[2] * x.shape[3]
        if count < 2:
            raise ValueError("batch norm has one value a channel to normalise: train on batches "
                             "of two images or more, and call net.eval() to predict")
        bias = self.bias
        if conv_bias is not None:
            bias = bias + conv_bias * 0.0  # its gradient is zero, not absent
        if jt.flags.use_cuda:
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
