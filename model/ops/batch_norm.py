"""Batch norm with PyTorch's semantics and sums in double precision, its activation fused in.

Jittor's own layer keeps a biased running variance, and takes E[x²] − E[x]² of float32 sums that
it adds up one element after another: 5e-4 off in the outputs at the training size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.ops.layout import activation_dtype, per_channel, shape_of
from model.ops.native import BFLOAT16, block_of_operand, code, cuda_code, on_cuda
from model.ops.sharing import sum_of_ranks
from model.ops.sums import segments_of
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


def _norm_code(shapes, dtypes, inputs, slope, launches):
    """A GPU's operator of batch_norm.cuh; x is its first operand."""
    geometry = ("const int64_t N = in0_shape0, C = in0_shape1;\n"
                "const Planes planes(N * C, in0_shape2 * in0_shape3);\n"
                'const float slope = data["slope"];\n')
    return cuda_code(shapes, dtypes, inputs, "batch_norm.cuh", geometry + launches,
                     {"slope": slope})


class _NormCUDA(jt.Function):
    """`_NormCPU` on a GPU, the sum of several; and of each the running statistics after the step.

    Its arguments are all x, then of each norm weight, bias and running statistics, and of a single
    norm None or the bias of the convolution before, without which x comes.
    """

    def __init__(self, slope, count=1):
        self.slope, self.count = slope, count

    def execute(self, *arguments):
        inputs = [v for v in arguments if v is not None]
        xs, c = inputs[: self.count], inputs[0].shape[1]
        self.has_bias = len(inputs) == 5 * self.count + 1
        before = f"{{in{5 * self.count}}}" if self.has_bias else "nullptr"
        launches, terms, scratch = "", [], f"{{out{1 + 4 * self.count}}}"
        for i in range(self.count):
            weight, bias, mean, var = (f"{{in{self.count + 4 * i + k}}}" for k in range(4))
            new_mean, new_var, factors, moments = (f"{{out{1 + 4 * i + k}}}" for k in range(4))
            terms.append(f"{{in{i}}}, {factors}")
            launches += (
                f"LAUNCH((batch_norm::segment_sums), planes.blocks(), planes, {{in{i}}}, "
                f"{scratch});\n"
                f"LAUNCH((batch_norm::finish_statistics), C, planes, N, C, {scratch}, {weight}, "
                f"{bias}, {before}, {mean}, {var}, {MOMENTUM}, {EPS}, {factors}, {moments}, "
                f"{new_mean}, {new_var});\n")
        y, *rest, _ = _norm_code(
            [xs[0].shape, *[(c,), (c,), (3, c), (2, c)] * self.count, (segments_of(xs[0]), 2)],
            ["float32", *["float32", "float32", "float32", "float64"] * self.count, "float64"],
            inputs, self.slope, launches +
            "LAUNCH((batch_norm::normalise), planes.blocks(), planes, C, "
            f"batch_norm::terms({', '.join(terms)}), slope, {{out0}});")
        self.saved = list(zip(xs, rest[2::4], rest[3::4]))
        return y, *(v for i in range(0, len(rest), 4) for v in rest[i : i + 2])

    def grad(self, dy, *_):
        of_x, of_norms = [], []
        for x, factors, moments in self.saved:
            c = x.shape[1]
            dx, dweight, dbias, dconv_bias, _, _ = _norm_code(
                [x.shape, (c,), (c,), (c,), (2, c), (segments_of(x), 2)],
                ["float32"] * 5 + ["float64"], [x, dy, factors, moments], self.slope,
                "LAUNCH((batch_norm::backward_sums), planes.blocks(), planes, C, {in0}, {in1}, "
                "{in2}, slope, {out5});\n"
                "LAUNCH((batch_norm::finish_backward), C, planes, N, C, {out5}, {in3}, "
                "{out1}, {out2}, {out3}, {out4});\n"
                "LAUNCH((batch_norm::backward), planes.blocks(), planes, C, {in0}, {in1}, {in2}, "
                "{out4}, slope, {out0});")
            of_x.append(dx)
            of_norms += [dweight, dbias, None, None]
        # As many as there were arguments.
        last = [dconv_bias if self.has_bias else None] if self.count == 1 else []
        return [*of_x, *of_norms, *last]


def _norms_cuda(xs, norms, *conv_bias):
    """Σ of the norms of all x in training, on a GPU."""
    parts = [v for norm in norms for v in norm.parts()]
    y, *running = _NormCUDA(norms[0].slope, len(xs))(*xs, *parts, *conv_bias)
    for norm, mean, var in zip(norms, running[::2], running[1::2]):
        norm.running_mean.update(mean.detach())
        norm.running_var.update(var.detach())
    return y


def sums_norms(norms: Sequence[BatchNorm]) -> bool:
    """True if `sum_of_norms` adds up the results of these as one operator: training on a GPU."""
    return (on_cuda() and 1 < len(norms) <= 4 and norms[0].is_training()
            and not ranks.share())


def sum_of_norms(xs: Sequence[jt.Var], norms: Sequence[BatchNorm]) -> jt.Var:
    """Σ norm(x) of activations of one shape and norms of one slope."""
    n, _, h, w = xs[0].shape
    require_two(n * h * w)
    return _norms_cuda(xs, norms)


def _fixed_norm_cuda(x, weight, bias, mean, var, conv_bias, slope):
    """By the running statistics, on a GPU; without gradient."""
    inputs = [x, weight, bias, mean, var] + ([] if conv_bias is None else [conv_bias])
    before = "nullptr" if conv_bias is None else "{in5}"
    y, _ = _norm_code(
        [x.shape, (3, x.shape[1])], ["float32"] * 2, inputs, slope,
        f"LAUNCH((batch_norm::fixed_statistics), blocks_for(C), C, {{in1}}, {{in2}}, {before}, "
        f"{{in3}}, {{in4}}, {EPS}, {{out1}});\n"
        "LAUNCH((batch_norm::normalise), planes.blocks(), planes, C, "
        "batch_norm::terms({in0}, {out1}), slope, {out0});")
    return y


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
    """The same from Jittor's operators: in double precision, and for ranks that share a batch on
    GPUs."""
    x64 = x.float64()
    mean = _mean(x64)
    centred = x64 - per_channel(mean, x)
    var = _mean(centred.sqr())
    scale = weight.float64() / jt.sqrt(var + EPS)
    z = centred * per_channel(scale, x) + per_channel(bias.float64(), x)
    return activate(z, slope).cast(x.dtype), mean, var


def require_two(count: int) -> None:
    """Raises ValueError unless there are two values or more to normalise."""
    if count < 2:
        raise ValueError("batch norm has one value a channel to normalise: train on batches "
                         "of two images or more, and call net.eval() to predict")


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
        if on_cuda() and x.dtype == "float32" and jt.flags.no_grad:
            return _fixed_norm_cuda(x, *self.parts(), conv_bias, self.slope)
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
        require_two(count)
        if on_cuda() and x.dtype == "float32" and not share:
            return _norms_cuda([x], [self], conv_bias)
        bias = self.bias
        if conv_bias is not None:
            bias = bias + conv_bias * 0.0  # its gradient is zero, not absent
        if on_cuda() or x.dtype == "float64":
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
