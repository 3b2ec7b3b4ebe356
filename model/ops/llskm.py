"""The operators of an LLSKM: the convolution with one kernel per image, and kernels for GPUs."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from . import UserError, jt
from .batch_norm import EPS, LINEAR, MOMENTUM, require_two
from .conv import conv2d, conv2d_activated, conv2d_sum_activated
from .elementwise import bias_activated
from .layout import block_of, enter, leave, per_channel, shape_of
from .native import BFLOAT16, by_onednn, cuda_code, on_cuda
from .sharing import current_batch
from .sums import add_bias_on_gpu, segments_of

if TYPE_CHECKING:
    from ..layers import Conv2d, ConvStack

FORM = "L2SKNET_LLSKM_FORM"  # environment variable: "grouped" or "two" chooses, nothing is tried


def on_gpu_by(function: type[jt.Function]) -> Callable:
    """Decorates a formula: on a GPU `function` computes it instead, as one operator."""
    def decorate(formula):
        @functools.wraps(formula)
        def either(*arguments):
            return function()(*arguments) if on_cuda() else formula(*arguments)

        return either

    return decorate


# ---------------------------------------------------------------------------------------- θ


def attention(pooled: jt.Var, stack: ConvStack) -> jt.Var:
    """θ = sigmoid(stack(pooled)), N×C×1×1 float64; on a GPU one operator."""
    training = stack.is_training()
    if not on_cuda() or not current_batch().whole or not (training or jt.flags.no_grad):
        return jt.sigmoid(stack(pooled))
    if training:
        require_two(pooled.shape[0])
    (dense1, norm1), (dense2, norm2) = stack.steps
    theta, *running = _AttentionCUDA(training)(
        _double(pooled), dense1.weight, *norm1.parts(), dense2.weight, *norm2.parts())
    if training:
        norm1.update(*running[:2])
        norm2.update(*running[2:])
    return theta


class _AttentionCUDA(jt.Function):
    """θ, and the running statistics of both norms after the step."""

    def __init__(self, training):
        self.training = training

    def execute(self, pooled, first, *rest):
        n, (hidden, c) = pooled.shape[0], first.shape[:2]
        theta, *running, a, r, b, moments = cuda_code(
            [(n, c, 1, 1), (hidden,), (hidden,), (c,), (c,), (n, hidden), (n, hidden), (n, c),
             (2 * hidden + 2 * c,)],
            ["float64"] + ["float32"] * 4 + ["float64"] * 4, [pooled, first, *rest], "llskm.cuh",
            "LAUNCH((llskm::attention), 1, in1_shape1, in1_shape0, in0_shape0, {in0}, {in1}, "
            "{in6}, llskm::Norm{{in2}, {in3}, {in4}, {in5}}, "
            "llskm::Norm{{in7}, {in8}, {in9}, {in10}}, "
            f"bool(data[\"training\"]), {MOMENTUM}, {EPS}, {{out0}}, {{out5}}, {{out6}}, {{out7}}, "
            "{out8}, llskm::Running{{out1}, {out2}}, llskm::Running{{out3}, {out4}});",
            {"training": int(self.training)})
        weight1, second, weight2 = rest[0], rest[4], rest[5]
        self.saved = theta, pooled, first, second, weight1, weight2, a, r, b, moments
        return theta, *running

    def grad(self, dtheta, *_):
        inputs = [_double(dtheta), *self.saved]
        first, second = self.saved[2], self.saved[3]
        n, (hidden, c) = dtheta.shape[0], first.shape[:2]
        arguments = ", ".join([f"{{in{i}}}" for i in range(11)] + [f"{{out{i}}}" for i in (7, 8)]
                              + [f"{{out{i}}}" for i in range(7)])
        dpooled, dfirst, dsecond, dweight1, dbias1, dweight2, dbias2, _, _ = cuda_code(
            [(n, c, 1, 1), first.shape, second.shape, (hidden,), (hidden,), (c,), (c,), (n, c),
             (n, hidden)],
            ["float64"] + ["float32"] * 6 + ["float64"] * 2, inputs, "llskm.cuh",
            "LAUNCH((llskm::attention_backward), 1, in3_shape1, in3_shape0, in0_shape0, "
            f"{arguments});")
        return dpooled, dfirst, dweight1, dbias1, None, None, dsecond, dweight2, dbias2, None, None


# ------------------------------------------------------------------------------ the kernels


def _double(x):
    return x if x.dtype == "float64" else x.float64()


def by_image(theta: jt.Var) -> jt.Var:
    """Reshapes θ, N×C×1×1, to N×C×1×1×1, a factor per image and output channel of kernels."""
    return theta.reshape(theta.shape[0], theta.shape[1], 1, 1, 1)


class KernelsCUDA(jt.Function):
    """`square_kernels` of model/llskm.py."""

    def execute(self, weight: jt.Var, theta: jt.Var) -> jt.Var:
        theta = _double(theta)
        self.saved = weight, theta
        c, _, kh, kw = weight.shape
        return cuda_code(
            (theta.shape[0], c, c, kh, kw), "float32", [weight, theta], "llskm.cuh",
            "LAUNCH((llskm::kernels), blocks_for(out0->num), out0_shape0, out0_shape1, "
            "out0_shape3 * out0_shape4, {in0}, {in1}, {out0});")

    def grad(self, dy: jt.Var) -> list[jt.Var]:
        weight, theta = self.saved
        return cuda_code(
            [weight.shape, theta.shape], ["float32", "float64"], [weight, theta, dy], "llskm.cuh",
            "const int64_t N = in2_shape0, C = in2_shape1, taps = in2_shape3 * in2_shape4;\n"
            "LAUNCH((llskm::kernels_dweight), blocks_for(C * C * taps), N, C, taps, {in1}, {in2}, "
            "{out0});\n"
            "LAUNCH((llskm::kernels_dtheta), blocks_for(N * C), N, C, taps, {in0}, {in2}, "
            "{out1});")


class CentresCUDA(jt.Function):
    """`separable_centres` of model/llskm.py."""

    def execute(self, row: jt.Var, column: jt.Var, theta: jt.Var) -> jt.Var:
        theta = _double(theta)
        self.saved = row, column, theta
        c = row.shape[0]
        return cuda_code(
            (theta.shape[0], c, c, 1, 1), "float32", [row, column, theta], "llskm.cuh",
            "LAUNCH((llskm::centres), blocks_for(out0_shape1 * out0_shape1), out0_shape0, "
            "out0_shape1, in0_shape3, {in0}, {in1}, {in2}, {out0});")

    def grad(self, dy: jt.Var) -> list[jt.Var]:
        row, column, theta = self.saved
        return cuda_code(
            [row.shape, column.shape, theta.shape], ["float32", "float32", "float64"],
            [row, column, theta, dy], "llskm.cuh",
            "const int64_t N = in3_shape0, C = in3_shape1, K = in0_shape3;\n"
            "LAUNCH((llskm::centres_dweights), blocks_for(C * C), N, C, K, {in0}, {in1}, {in2}, "
            "{in3}, {out0}, {out1});\n"
            "LAUNCH((llskm::centres_dtheta), blocks_for(N * C), N, C, K, {in0}, {in1}, {in3}, "
            "{out2});")


# -------------------------------------------------------------------- the convolution


def per_image_conv(
    x: jt.Var, kernels: jt.Var, padding: int = 0, dilation: int = 1,
    bias: jt.Var | None = None, slope: float = LINEAR,
) -> jt.Var:
    """Convolves image n of `x` (N×C×H×W) with kernels[n] (`kernels`: N×C×C×kh×kw).

    Args:
        bias: per channel, or None for no bias and no activation.
        slope: slope of the activation; ignored without a bias.
    """
    if x.ndim == 5 and x.shape[4] != block_of(x.shape[0] * shape_of(x)[1]):
        # Fewer channels than a block holds are stored as one block; several such blocks are not the
        # layout of N·C channels.
        return enter(per_image_conv(leave(x), kernels, padding, dilation, bias, slope))
    # Images lie one after the other, so reshaping makes one image of N·C channels, in blocks too.
    n, c, *rest = x.shape
    images, kernels = x.reshape(1, n * c, *rest), kernels.reshape(-1, *kernels.shape[2:])
    if bias is None:
        y = conv2d(images, kernels, padding=padding, dilation=dilation, groups=n)
    else:
        y = conv2d_activated(images, kernels, jt.concat([bias] * n), slope, padding=padding,
                             dilation=dilation, groups=n)
    return y.reshape(x.shape)


class _AddScaledCUDA(jt.Function):
    def execute(self, a, b, theta):
        self.saved = b, theta
        return a + per_channel(theta.float32(), b) * b

    def grad(self, dy):
        b, theta = self.saved
        dtheta, _ = cuda_code(
            [theta.shape, (segments_of(b),)], ["float64"] * 2, [dy, b], "sums.cuh",
            "const Planes planes(in0_shape0 * in0_shape1, in0_shape2 * in0_shape3);\n"
            "LAUNCH((sums::of_products), planes.blocks(), planes, {in0}, {in1}, {out1});\n"
            "LAUNCH((sums::of_planes), planes.count, planes, {out1}, 1., {out0});")
        return dy, per_channel(theta.float32(), dy) * dy, dtheta


def _add_scaled(a, b, theta):
    """a + θ∘b for activations a and b and θ, N×C×1×1 float64."""
    if on_cuda():
        return _AddScaledCUDA()(a, b, _double(theta))
    return (a.float64() + per_channel(theta, b) * b.float64()).float32()


def subtract_conv(y: jt.Var, x: jt.Var, conv: Conv2d) -> jt.Var:
    """y − conv(x)."""
    if not on_cuda():
        return y - conv(x)
    # The sign goes into the kernel, so that no activation is negated.
    negative = conv2d(x, -conv.weight, conv.stride, conv.padding)
    return add_bias_on_gpu(-conv.bias, y, negative)


def _grouped(x, theta, kernels, _, padding, dilation):
    return per_image_conv(x, kernels(theta).float32(), padding, dilation)


def _two(x, theta, kernels, centre, padding, dilation):
    (common,) = kernels(jt.zeros((1, *theta.shape[1:]), "float64")).float32()
    return _add_scaled(conv2d(x, common, padding=padding, dilation=dilation), conv2d(x, centre()),
                       theta)


FORMS = {"grouped": _grouped, "two": _two}
chosen: dict[tuple, str] = {}  # key → name of the form that `fastest` found in this process


def _seconds(run: Callable[[], Sequence[jt.Var]]) -> float:
    """Seconds of one run, the mean of three, after two in which Jittor compiles and cuDNN searches.
    """
    for _ in range(2):
        jt.sync(run(), True)
    began = time.perf_counter()
    for _ in range(3):
        jt.sync(run(), True)
    return (time.perf_counter() - began) / 3


def fastest(key: tuple, ways: Mapping[str, Callable[[], Sequence[jt.Var]]]) -> str:
    """The name of the fastest of `ways`; all are tried at the first use of a key."""
    if key not in chosen:
        times = {name: _seconds(run) for name, run in ways.items()}
        chosen[key] = min(times, key=times.get)
        print(f"LLSKM {key}: " + ", ".join(f"{n} {t * 1e3:.2f} ms" for n, t in times.items())
              + f"; {chosen[key]} from now on", file=sys.stderr, flush=True)
    return chosen[key]


def image_conv(
    x: jt.Var, theta: jt.Var, kernels: Callable[[jt.Var], jt.Var], centre: Callable[[], jt.Var],
    padding: int = 0, dilation: int = 1,
) -> jt.Var:
    """Convolves image n with K_n = A + θ_n∘B, where A is the kernel at θ = 0, and B, 1×1, is W_c.

    There are two forms: one convolution grouped over the batch, or A * x + θ_n ∘ (B * x). A CPU
    takes the first. A GPU tries both: in training once per shape, in prediction once per range of
    sizes. $L2SKNET_LLSKM_FORM names one instead.

    Args:
        x: N×C×H×W, or in blocks of channels.
        theta: N×C×1×1 float64.
        kernels: θ, N×C×1×1 for any N → kernels, N×C×C×k×k.
        centre: returns B, C×C×1×1.
    """
    form = os.environ.get(FORM, "auto")
    if form not in (*FORMS, "auto"):
        raise UserError(f"{FORM}={form}: must be {', '.join(FORMS)} or auto")
    if form == "auto":
        form = (_fastest_form(x, theta, kernels, centre, padding, dilation) if _tries()
                else "grouped")
    return FORMS[form](x, theta, kernels, centre, padding, dilation)


def image_conv_activated(
    x: jt.Var, theta: jt.Var, kernels: Callable[[jt.Var], jt.Var], centre: Callable[[], jt.Var],
    bias: jt.Var, slope: float, padding: int = 0, dilation: int = 1,
) -> jt.Var:
    """Activation of (`image_conv` + a bias per channel); without gradient."""
    if by_onednn():
        return per_image_conv(x, kernels(theta), padding, dilation, bias, slope)
    y = image_conv(x, theta, kernels, centre, padding, dilation)
    return bias_activated(y, bias, slope)


def image_conv_sum_activated(
    x: jt.Var, theta: jt.Var, kernels: Callable[[jt.Var], jt.Var], centre: Callable[[], jt.Var],
    x2: jt.Var, weight: jt.Var, bias: jt.Var, slope: float, padding: tuple[int, int],
) -> jt.Var:
    """Activation of (`image_conv` with 1×1 kernels + `conv2d` of x2 + a bias per channel); without
    gradient."""
    if by_onednn() and x.dtype == BFLOAT16:  # Jittor's sum would cut off digits
        return conv2d_sum_activated(x, kernels(theta), x2, weight, bias, slope, padding)
    y = per_image_conv(x, kernels(theta)) if by_onednn() else image_conv(x, theta, kernels, centre)
    return conv2d_activated(x2, weight, bias, slope, padding=padding, added=y)


def _tries():
    return bool(jt.flags.use_cuda)


def _fastest_form(x, theta, kernels, centre, padding, dilation):
    with_gradient = not jt.flags.no_grad

    def run(form):
        zeros, made = [jt.zeros(x.shape), jt.zeros(theta.shape, "float64")], []

        def keep(make):
            def making(*arguments):
                made.append(make(*arguments))
                return made[-1]

            return making

        y = form(*zeros, keep(kernels), keep(centre), padding, dilation)
        # y as well: no gradient needs its values, so that Jittor would not compute it.
        return [y, *jt.grad(y.sum(), zeros + made)] if with_gradient else [y]

    n, channels, height, width = shape_of(x)
    size = 2 * (padding // dilation) + 1
    key = f"{size}x{size}", f"dilation {dilation}"
    if with_gradient:
        key += "training", (n, channels, height, width)
    else:
        # Frames may have a hundred sizes: sizes in one range of pixels, 2**n, share a choice.
        pixels = 2 ** (n * height * width).bit_length()
        key += ("prediction", f"{channels} channels", "one image" if n == 1 else "several images",
                f"below {pixels} pixels")
    return fastest(key, {name: lambda form=form: run(form) for name, form in FORMS.items()})
