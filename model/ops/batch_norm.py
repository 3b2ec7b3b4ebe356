"""Batch norm with PyTorch's semantics and sums in double precision, its activation fused in.

Jittor's own layer keeps a biased running variance. It computes E[x²] − E[x]² from float32 sums, to
which it adds one value after another: at the training size its outputs are 5e-4 off.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import jt
from .layout import per_channel, shape_of
from .native import block_of_operand, code, cuda_code, on_cuda
from .sharing import Batch, batch_sum, current_batch
from .sums import segments_of

MOMENTUM, EPS = 0.1, 1e-5
RELU, LEAKY, LINEAR = 0.0, 0.1, 1.0  # slopes of the activation for negative inputs


def train_norm(
    x: jt.Var, weight: jt.Var, bias: jt.Var, running_mean: jt.Var, running_var: jt.Var,
    slope: float, conv_bias: jt.Var | None = None,
) -> tuple[jt.Var, jt.Var, jt.Var]:
    """Normalises x + conv_bias by the statistics of the batch, then applies the activation.

    The mean of the batch cancels `conv_bias`, the bias of the convolution before: it only moves the
    running mean, and its gradient is exactly zero. (Autograd would return rounding errors.)

    Args:
        x: activations in either form of `model.ops.layout`.
        weight, bias, running_mean, running_var, conv_bias: one value per channel.
        slope: slope of the activation for negative inputs: RELU, LEAKY, or LINEAR for none.

    Returns:
        Activations, and the running mean and variance after this step.

    Raises:
        ValueError: there is only one value per channel.
    """
    (n, _, h, w), batch = shape_of(x), current_batch()
    count = batch.images(n) * h * w
    require_two(count)
    if on_cuda() and x.dtype == "float32" and batch.whole:
        return _NormCUDA(slope)(x, weight, bias, running_mean, running_var, conv_bias)
    if conv_bias is not None:
        bias = bias + conv_bias * 0.0  # its gradient is zero, not absent
    if on_cuda() or x.dtype == "float64":
        y, mean, var = _norm_any_device(x, weight, bias, slope)
    else:
        y, mean, var, batch.token = _NormCPU(slope, batch)(x, weight, bias, batch.token)
    unbiased = var.detach() * (count / (count - 1))
    mean = mean.detach()
    if conv_bias is not None:
        mean = mean + conv_bias.detach()
    return y, *((running * (1 - MOMENTUM) + new * MOMENTUM).float32()
                for running, new in ((running_mean, mean), (running_var, unbiased)))


def fixed_norm(
    x: jt.Var, weight: jt.Var, bias: jt.Var, mean: jt.Var, var: jt.Var, slope: float,
    conv_bias: jt.Var | None = None,
) -> jt.Var:
    """Normalises x + conv_bias by the running statistics, then applies the activation.

    One operator under `jt.no_grad` on a GPU and on blocks of channels; else several, in float64.
    """
    if on_cuda() and x.dtype == "float32" and jt.flags.no_grad:
        return _fixed_norm_cuda(x, weight, bias, mean, var, conv_bias, slope)
    mean, var = mean.float64(), var.float64()
    if conv_bias is not None:
        mean = mean - conv_bias.float64()
    if x.ndim == 5 and jt.flags.no_grad:  # in one pass over memory
        return _code(x.shape, "float32", [x, weight, bias, mean, var], slope,
                     ("normalise", "{in0}, {in1}, {in2}, {in3}, {in4}, eps, slope, {out0}"))
    scale = weight.float64() / jt.sqrt(var + EPS)
    shift = bias.float64() - mean * scale
    z = x.float64() * per_channel(scale, x) + per_channel(shift, x)
    return activate(z, slope).cast(x.dtype)


def activate(z: jt.Var, slope: float) -> jt.Var:
    """z where z > 0, z·slope elsewhere. (A maximum with 0 would turn NaN into 0.)"""
    return z if slope == LINEAR else jt.ternary(z > 0, z, z * slope)


def require_two(count: int) -> None:
    """Raises ValueError unless there are at least two values per channel to normalise."""
    if count < 2:
        raise ValueError("batch norm has one value per channel to normalise: train on batches "
                         "of two images or more, and call net.eval() to predict")


# ------------------------------------------------------------------------------------- the CPU


def _code(shapes, dtypes, inputs, slope, *calls):
    """An operator that calls functions of batch_norm.h; x is its first operand.

    The slope is volatile: with a known 0, -Ofast would turn NaN·0 into 0, and a ReLU would hide
    that a network has failed.
    """
    block = block_of_operand(inputs[0])
    shape = "{in0_shape0, in0_shape1, in0_shape2, in0_shape3}"
    source = f"const double eps = {EPS};\nstatic volatile double slope = {slope};\n"
    for function, arguments in calls:
        source += f"batch_norm::{function}<{block}>({shape}, {arguments});\n"
    return code(shapes, dtypes, inputs, "batch_norm.h", source)


class _NormCPU(jt.Function):
    """Batch statistics, normalisation and activation, in two passes over memory each way.

    After the first pass the sums are complete; processes that share a batch exchange them then.
    """

    def __init__(self, slope: float, batch: Batch):
        self.slope, self.batch = slope, batch

    def execute(self, x, weight, bias, token):
        (channels,) = weight.shape
        own = _code((2 * channels + 1,), "float64", [x], self.slope, ("sums", "{in0}, {out0}"))
        sums = self.batch.sum(self.batch.weigh(own), token)
        y, mean, var = _code(
            [x.shape, (channels,), (channels,)], ["float32", "float64", "float64"],
            [x, weight, bias, sums], self.slope,
            ("moments", "{in3}, {out1}, {out2}"),
            ("normalise", "{in0}, {in1}, {in2}, {out1}, {out2}, eps, slope, {out0}"),
        )
        self.saved = x, weight, bias, mean, var, sums
        return y, mean, var, None if token is None else sums

    def grad(self, dy, _mean, _var, token):
        x, weight, bias, mean, var, sums = self.saved
        (channels,) = weight.shape
        own, dweight, dbias = _code(
            [(2 * channels,), (channels,), (channels,)], ["float64", "float32", "float32"],
            [x, dy, weight, bias, mean, var], self.slope,
            ("backward_sums", "{in0}, {in1}, {in2}, {in3}, {in4}, {in5}, eps, slope, "
                              "{out0}, {out1}, {out2}"),
        )
        dsums = self.batch.sum(own, token)
        dx = _code(
            x.shape, x.dtype, [x, dy, weight, bias, mean, var, sums, dsums], self.slope,
            ("backward_values", "{in0}, {in1}, {in2}, {in3}, {in4}, {in5}, eps, slope, "
                                "{in6}[in6->num - 1], {in7}, {out0}"),
        )
        return self.batch.weigh(dx), dweight, dbias, None if self.batch.whole else dsums


def _mean(x):
    """Per-channel mean over the batch."""
    n, _, h, w = shape_of(x)
    batch = current_batch()
    if batch.whole:
        return x.mean((0, 2, 3)).reshape(-1)
    return batch_sum(x.sum((0, 2, 3)).reshape(-1)) / (batch.images(n) * h * w)


def _norm_any_device(x, weight, bias, slope):
    """Batch norm from Jittor's operators, in double precision.

    Used on the CPU for θ, and on GPUs where several share a batch.
    """
    x64 = x.float64()
    mean = _mean(x64)
    centred = x64 - per_channel(mean, x)
    var = _mean(centred.sqr())
    scale = weight.float64() / jt.sqrt(var + EPS)
    z = centred * per_channel(scale, x) + per_channel(bias.float64(), x)
    return activate(z, slope).cast(x.dtype), mean, var


# ------------------------------------------------------------------------------------- GPUs


def _norm_code(shapes, dtypes, inputs, slope, launches):
    """An operator of batch_norm.cuh for a GPU; x is its first operand."""
    geometry = ("const int64_t N = in0_shape0, C = in0_shape1;\n"
                "const Planes planes(N * C, in0_shape2 * in0_shape3);\n"
                'const float slope = data["slope"];\n')
    return cuda_code(shapes, dtypes, inputs, "batch_norm.cuh", geometry + launches,
                     {"slope": slope})


class _NormCUDA(jt.Function):
    """Σ of one or more norms on a GPU, and per norm the running statistics after the step.

    Arguments: the inputs of all norms, then per norm weight, bias, running mean and running
    variance, then, for a single norm, the bias of the convolution before, or None.
    """

    def __init__(self, slope, count=1):
        self.slope, self.count = slope, count

    def execute(self, *arguments):
        inputs = [v for v in arguments if v is not None]
        xs, c = inputs[: self.count], inputs[0].shape[1]
        self.has_bias = len(inputs) == 5 * self.count + 1
        before = f"{{in{5 * self.count}}}" if self.has_bias else "nullptr"
        launches, all_factors, scratch = "", [], f"{{out{1 + 4 * self.count}}}"
        for i in range(self.count):
            weight, bias, mean, var = (f"{{in{self.count + 4 * i + k}}}" for k in range(4))
            new_mean, new_var, factors, moments = (f"{{out{1 + 4 * i + k}}}" for k in range(4))
            all_factors.append(factors)
            launches += (
                f"LAUNCH((batch_norm::segment_sums), planes.blocks(), planes, {{in{i}}}, "
                f"{scratch});\n"
                f"LAUNCH((batch_norm::finish_statistics), C, planes, N, C, {scratch}, {weight}, "
                f"{bias}, {before}, {mean}, {var}, {MOMENTUM}, {EPS}, {factors}, {moments}, "
                f"{new_mean}, {new_var});\n")
        values = ", ".join(f"{{in{i}}}" for i in range(self.count))
        terms = f"{{{self.count}, {{{values}}}, {{{', '.join(all_factors)}}}}}"
        y, *rest, _ = _norm_code(
            [xs[0].shape, *[(c,), (c,), (3, c), (2, c)] * self.count, (segments_of(xs[0]), 2)],
            ["float32", *["float32", "float32", "float32", "float64"] * self.count, "float64"],
            inputs, self.slope, launches +
            "LAUNCH((batch_norm::normalise), planes.blocks(), planes, C, "
            f"batch_norm::Terms{terms}, slope, {{out0}});")
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
        # One gradient per argument of `execute`.
        last = [dconv_bias if self.has_bias else None] if self.count == 1 else []
        return [*of_x, *of_norms, *last]


def can_sum_norms(count: int) -> bool:
    """True if `sum_of_norms` can add up `count` norms: on a GPU with the whole batch."""
    return on_cuda() and 1 < count <= 4 and current_batch().whole


def sum_of_norms(
    xs: Sequence[jt.Var], parts: Sequence[Sequence[jt.Var]], slope: float
) -> tuple[jt.Var, list[jt.Var]]:
    """Σ norm(x) in training, as one operator on a GPU.

    Args:
        xs: one input per norm, all of one shape.
        parts: per norm weight, bias, running mean and running variance.
        slope: slope of the activation, common to all norms.

    Returns:
        The sum, and a list of the new running mean and variance of the first norm, the second …
    """
    n, _, h, w = xs[0].shape
    require_two(n * h * w)
    y, *running = _NormCUDA(slope, len(xs))(*xs, *(v for part in parts for v in part))
    return y, running


def _fixed_norm_cuda(x, weight, bias, mean, var, conv_bias, slope):
    """Batch norm by the running statistics, on a GPU; without gradient."""
    inputs = [x, weight, bias, mean, var] + ([] if conv_bias is None else [conv_bias])
    before = "nullptr" if conv_bias is None else "{in5}"
    y, _ = _norm_code(
        [x.shape, (3, x.shape[1])], ["float32"] * 2, inputs, slope,
        f"LAUNCH((batch_norm::fixed_statistics), blocks_for(C), C, {{in1}}, {{in2}}, {before}, "
        f"{{in3}}, {{in4}}, {EPS}, {{out1}});\n"
        "LAUNCH((batch_norm::normalise), planes.blocks(), planes, C, "
        "batch_norm::Terms{1, {{in0}}, {{out1}}}, slope, {out0});")
    return y
