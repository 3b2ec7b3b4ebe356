"""Batch norm with PyTorch's semantics and sums in double precision, its activation fused in.

Jittor's own layer keeps a biased running variance, and takes E[x²] − E[x]² of float32 sums that
it adds up one element after another: 5e-4 off in the outputs at the training size.
"""

from __future__ import annotations

import numpy as np

from model.ops.layout import activation_dtype, per_channel, shape_of
from model.ops.native import BFLOAT16, block_of_operand, code
from model.ops.sharing import sum_of_ranks
from utils.runtime import jt, ranks

MOMENTUM, EPS = 0.1, 1e-5
RELU, LEAKY, LINEAR = 0.0, 0.1, 1.0  # slopes of the activation where its input is negative


def _code(shapes, dtypes, inputs, slope, *calls):
    """An operator that calls functions of batch_norm.h; x is its first operand.

    The slope lies in memory: -Ofast would fold NaN * 0 into 0, and a ReLU hide a failure.
    """
    block = block_of_operand(inputs[0])
    shape = "{in0_shape0, in0_shape1, in0_shape2, in0_shape3}"
    source = f"const double eps = {EPS};\nstatic volatile double slope = {slope};\n"
    for function, arguments in calls:
        source += f"batch_norm::{function}<{block}>({shape}, {arguments});\n"
    return code(shapes, dtypes, inputs, "batch_norm.h", source)


class _NormCPU(jt.Function):
    """Batch statistics, normalisation and activation in two passes over memory."""

    def __init__(self, slope):
        self.slope = slope

    def execute(self, x, weight, bias):
        channels = weight.shape
        y, mean, var = _code(
            [x.shape, channels, channels], [activation_dtype(), "float64", "float64"],
            [x, weight, bias], self.slope,
            ("statistics", "{in0}, {out1}, {out2}"),
            ("normalise", "{in0}, {in1}, {in2}, {out1}, {out2}, eps, slope, {out0}"),
        )
        self.saved = x, weight, bias, mean, var
        return y, mean, var

    def grad(self, dy, *_):
        x, weight, bias, mean, var = self.saved
        return _code(
            [x.shape, weight.shape, bias.shape], [x.dtype, "float32", "float32"],
            [x, dy, weight, bias, mean, var], self.slope,
            ("backward", "{in0}, {in1}, {in2}, {in3}, {in4}, {in5}, eps, slope, "
                         "{out0}, {out1}, {out2}"),
        )


class _FixedNormCPU(jt.Function):
    """The same by the running statistics."""

    def __init__(self, slope):
        self.slope = slope

    def execute(self, x, weight, bias, mean, var):
        y = _code(
            x.shape, activation_dtype(), [x, weight, bias, mean, var], self.slope,
            ("normalise", "{in0}, {in1}, {in2}, {in3}, {in4}, eps, slope, {out0}"),
        )
        self.saved = x, weight, mean, var, y
        return y

    def grad(self, dy):
        x, weight, mean, var, y = self.saved
        dy = dy.float64()
        dz = jt.ternary(y > 0, dy, dy * self.slope)
        inverse = 1 / jt.sqrt(var + EPS)
        scale = weight.float64() * inverse
        centred = x.float64() - per_channel(mean, x)
        dbias = dz.sum((0, 2, 3)).reshape(-1)
        dweight = (dz * centred).sum((0, 2, 3)).reshape(-1) * inverse
        dx = (dz * per_channel(scale, x)).cast(x.dtype)
        return dx, dweight.float32(), dbias.float32(), -dbias * scale, None


class _SharedNormCPU(jt.Function):
    """The same on a share of a batch: the passes stop where the sums of all ranks are needed."""

    def __init__(self, slope, share):
        self.slope, self.share = slope, share

    def execute(self, x, weight, bias, token):
        (channels,) = weight.shape
        own = _code((2 * channels + 1,), "float64", [x], self.slope, ("sums", "{in0}, {out0}"))
        sums = ranks.all_sum(self.share.weigh(own), token)
        y, mean, var = _code(
            [x.shape, (channels,), (channels,)], [activation_dtype(), "float64", "float64"],
            [x, weight, bias, sums], self.slope,
            ("moments", "{in3}, {out1}, {out2}"),
            ("normalise", "{in0}, {in1}, {in2}, {out1}, {out2}, eps, slope, {out0}"),
        )
        self.saved = x, weight, bias, mean, var, sums
        return y, mean, var, sums

    def grad(self, dy, _mean, _var, token):
        x, weight, bias, mean, var, sums = self.saved
        (channels,) = weight.shape
        own, dweight, dbias = _code(
            [(2 * channels,), (channels,), (channels,)], ["float64", "float32", "float32"],
            [x, dy, weight, bias, mean, var], self.slope,
            ("backward_sums", "{in0}, {in1}, {in2}, {in3}, {in4}, {in5}, eps, slope, "
                              "{out0}, {out1}, {out2}"),
        )
        dsums = ranks.all_sum(own, token)
        dx = _code(
            x.shape, x.dtype, [x, dy, weight, bias, mean, var, sums, dsums], self.slope,
            ("backward_values", "{in0}, {in1}, {in2}, {in3}, {in4}, {in5}, eps, slope, "
                                "{in6}[in6->num - 1], {in7}, {out0}"),
        )
        return self.share.weigh(dx), dweight, dbias, dsums


def activate(z: jt.Var, slope: float) -> jt.Var:
    """z where it is positive, z·slope elsewhere. (A maximum with 0 would turn NaN into 0.)"""
    return z if slope == LINEAR else jt.ternary(z > 0, z, z * slope)


def _mean(x):
    """Of each channel, over all images and pixels of the batch."""
    share = ranks.share()
    if share is None:
        return x.mean((0, 2, 3)).reshape(-1)
    _, _, h, w = shape_of(x)
    return sum_of_ranks(x.sum((0, 2, 3)).reshape(-1)) / (share.total * h * w)


def _norm_any_device(x, weight, bias, slope):
    """The same from Jittor's operators, for CUDA and for activations in double precision."""
    x64 = x.float64()
    mean = _mean(x64)
    centred = x64 - per_channel(mean, x)
    var = _mean(centred.sqr())
    scale = weight.float64() / jt.sqrt(var + EPS)
    z = centred * per_channel(scale, x) + per_channel(bias.float64(), x)
    return activate(z, slope).cast(x.dtype), mean, var


class BatchNorm(jt.Module):
    """Batch norm over activations in either form of `model.ops.layout`, and an activation after it.

    Args:
        channels: C.
        slope: of the activation: LINEAR is none, RELU, LEAKY is LeakyReLU(0.1).
    """

    def __init__(self, channels: int, slope: float):
        self.weight = jt.array(np.ones(channels, np.float32))
        self.bias = jt.array(np.zeros(channels, np.float32))
        self.running_mean = jt.array(np.zeros(channels, np.float32)).stop_grad()
        self.running_var = jt.array(np.ones(channels, np.float32)).stop_grad()
        self.slope = float(slope)

    def execute(self, x: jt.Var, conv_bias: jt.Var | None = None) -> jt.Var:
        """Normalises `x` + `conv_bias`, the bias of the convolution before.

        Batch statistics cancel that bias, so in training it only moves the running mean, and its
        gradient is exactly zero. (Autograd sums up its rounding errors instead.)
        """
        if self.is_training():
            return self._train(x, conv_bias)
        if x.ndim == 5:  # only the CPU has these
            mean, var = self._mean_before(conv_bias), self.running_var.float64()
            return _FixedNormCPU(self.slope)(x, self.weight, self.bias, mean, var)
        scale = self.weight.float64() / jt.sqrt(self.running_var.float64() + EPS)
        shift = self.bias.float64() - self._mean_before(conv_bias) * scale
        z = x.float64() * per_channel(scale, x) + per_channel(shift, x)
        return activate(z, self.slope).cast(x.dtype)

    def folds(self, x: jt.Var) -> bool:
        """Whether the convolution of `x` before it takes it over: predicting in bfloat16, without
        gradient.

        There it saves a pass over memory, and a rounding. In float32 both stay apart, as in the
        official code, whose outputs ours are held to.
        """
        return x.dtype == BFLOAT16 and not self.is_training() and bool(jt.flags.no_grad)

    def scale_and_shift(self) -> tuple[jt.Var, jt.Var]:
        """What is left of it when it is folded: the factors on the output channels of a kernel,
        C×1×1×1 float64, and what is added after, C float32."""
        channels = self.weight.shape[0]
        return code(
            [(channels, 1, 1, 1), (channels,)], ["float64", "float32"], self.parts(),
            "batch_norm.h", "batch_norm::fold(in0->num, {in0}, {in1}, {in2}, {in3}, nullptr, "
            f"{EPS}, {{out0}}, {{out1}});")

    def folded_into(self, weight: jt.Var, conv_bias: jt.Var | None) -> tuple[jt.Var, jt.Var]:
        """The kernel and the bias (float32) of the convolution before with the norm in it."""
        inputs = [weight, *self.parts()] + ([] if conv_bias is None else [conv_bias])
        bias = "nullptr" if conv_bias is None else "{in5}"
        return code(
            [weight.shape, self.weight.shape], ["float32", "float32"], inputs, "batch_norm.h",
            "batch_norm::fold_into(in0_shape0, in0->num, {in0}, {in1}, {in2}, {in3}, {in4}, "
            f"{bias}, {EPS}, {{out0}}, {{out1}});")

    def parts(self) -> list[jt.Var]:
        """Weight, bias, running mean and running variance."""
        return [self.weight, self.bias, self.running_mean, self.running_var]

    def _mean_before(self, conv_bias):
        """The running mean of what comes without that bias."""
        mean = self.running_mean.float64()
        return mean if conv_bias is None else mean - conv_bias.float64()

    def _train(self, x, conv_bias):
        n, _, h, w = shape_of(x)
        share = ranks.share()
        count = (share.total if share else n) * h * w
        if count < 2:
            raise ValueError("batch norm has one value a channel to normalise: train on batches "
                             "of two images or more, and call net.eval() to predict")
        bias = self.bias
        if conv_bias is not None:
            bias = bias + conv_bias * 0.0  # its gradient is zero, not absent
        if jt.flags.use_cuda or x.dtype == "float64":
            y, mean, var = _norm_any_device(x, self.weight, bias, self.slope)
        elif share:
            norm = _SharedNormCPU(self.slope, share)
            y, mean, var, share.token = norm(x, self.weight, bias, share.token)
        else:
            y, mean, var = _NormCPU(self.slope)(x, self.weight, bias)
        unbiased = var.detach() * (count / (count - 1))
        mean = mean.detach()
        if conv_bias is not None:
            mean = mean + conv_bias.detach()
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.update((running * (1 - MOMENTUM) + new * MOMENTUM).float32())
        return y
