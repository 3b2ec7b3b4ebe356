"""Checks that this machine computes correctly: `python -m utils.runtime`.

Runs every kind of operator of the four networks forward and backward, and compares it with NumPy in
double precision, gradients with its central differences. On a CPU in both layouts that activations
have there. Then compares the networks with the numbers of the official implementation. bfloat16 is
not checked. Run it first on a new machine: it also compiles Jittor's core, and on a GPU its CUDA
part.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import List, Tuple
from unittest import mock

import numpy as np
from scipy.ndimage import zoom
from scipy.special import expit

from alignment import golden
from model import MODEL_NAMES, build_model, fast_form, soft_iou_loss
from utils import runtime
from utils.cli import add_device, refuse_bf16
from utils.errors import UserError
from utils.runtime import cuda

# Largest differences allowed. Operators: relative to the largest number. TF32 rounds factors to 11
# bits, 5e-4: simulated on the CPU it changed operators by up to 5e-3.
OPERATOR_BOUNDS = {"float32": 1e-4, "tf32": 1e-2}
# Networks. In float32: in shares of what the standard of `golden` allows; on these small images one
# rounding more or less decides. In TF32: the error of an output, and the relative error of a
# gradient's norm in the median; simulated, the UNet's gradient changed by 0.2 of itself.
NETWORK_BOUNDS = {"float32": 3, "tf32": 0.5}
EVALUATED, TRAINED = ("2x64x64", "1x48x80"), "2x64x64"  # shapes of the numbers in `golden`
CURE = {
    "cpu": "Jittor's compiled code may be damaged: remove {cache}/jt* and run this again; if it "
           "stays, use_mkl=0 tells whether oneDNN is to blame",
    "cuda": "do not train on this GPU: run this with --precision float32 if you did not; then try "
            "another cuDNN or CUDA, remove {cache}/jt*/**/cu*, or use --device cpu",
}


# ---------------------------------------------------------------------------- references


def _conv(x, w, stride=1, padding=0, dilation=1, groups=1):
    (vertical, horizontal), n = np.broadcast_to(padding, 2), len(x)
    x = np.pad(x, ((0, 0), (0, 0), (vertical, vertical), (horizontal, horizontal)))
    rows, columns = (  # where the kernel's first tap goes
        np.arange(0, size - dilation * (k - 1), stride) for size, k in zip(x.shape[2:], w.shape[2:])
    )
    x = x.reshape(n, groups, -1, *x.shape[2:])
    w = w.reshape(groups, -1, *w.shape[1:])
    y = sum(
        np.einsum("ngihw,goi->ngohw", x[..., rows[:, None] + i * dilation, columns + j * dilation],
                  w[..., i, j])
        for i in range(w.shape[3]) for j in range(w.shape[4])
    )
    return y.reshape(n, -1, *y.shape[3:])


def _norm(x, weight, bias, slope):
    mean, std = x.mean((0, 2, 3)), np.sqrt(x.var((0, 2, 3)) + 1e-5)
    return _scaled(x, weight, bias, slope, mean, std)


def _scaled(x, weight, bias, slope, mean, std):
    weight, bias, mean, std = (v.reshape(1, -1, 1, 1) for v in (weight, bias, mean, std))
    z = (x - mean) / std * weight + bias
    return np.where(z > 0, z, slope * z)


def _attention(pooled, w1, g1, b1, w2, g2, b2):
    return expit(_norm(_conv(_norm(_conv(pooled, w1), g1, b1, 0), w2), g2, b2, 1))


def _llskm(x, w, theta, dilation):
    surround = _conv(x, w, padding=w.shape[2] // 2 * dilation, dilation=dilation)
    return _three_terms(x, w, theta, surround)


def _separable_llskm(x, row, row_bias, column, column_bias, theta):
    half = row.shape[3] // 2
    along_rows = _conv(x, row, padding=(0, half)) + row_bias.reshape(-1, 1, 1)
    surround = _conv(along_rows, column, padding=(half, 0)) + column_bias.reshape(-1, 1, 1)
    return _three_terms(x, row * column, theta, surround)


def _three_terms(x, w, theta, surround):
    """The official form: W_sum * X − the surround + θ ∘ (W_c * X)."""
    half = w.shape[2] // 2
    centre = _conv(x, w[:, :, half : half + 1, half : half + 1])
    return _conv(x, w.sum((2, 3), keepdims=True)) - surround + theta * centre


def _soft_iou(p, g):
    both = (p * g).sum()
    return 1 - (both + 1) / (p.sum() + g.sum() - both + 1)


def _adam(p, *gradients):
    m = v = 0
    for step, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return p


# ---------------------------------------------------------------------------- checks


Built = List[Tuple["runtime.jt.Var", List["runtime.jt.Var"]]]  # what `Check.build` returns


class Check:
    """One row: a function of Jittor variables, and its equal for NumPy arrays.

    Args:
        ours, reference: functions of the inputs.
        shapes: of the inputs, which are drawn from N(0, 1).
        activations: the number of first inputs that networks on a CPU store in blocks of channels
            (`model.ops.layout`); this form is then checked as well.
        backward: True if the function has a gradient.
        bound: the largest difference allowed; None: of `OPERATOR_BOUNDS`.
    """

    def __init__(
        self, name: str, ours: Callable[..., runtime.jt.Var], reference: Callable[..., np.ndarray],
        *shapes: int | tuple[int, ...], activations: int = 1, backward: bool = True,
        bound: float | None = None,
    ):
        self.name, self.ours, self.reference = name, ours, reference
        self.activations, self.backward, self.bound = activations, backward, bound
        self.rng = np.random.default_rng(len(name))
        self.inputs = [self.rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    def build(self) -> Built:
        """Output, and gradients of its inner product with a fixed array, not yet computed.

        Returns:
            A pair for each form that activations have on this device.
        """
        from model.ops.layout import enter, has_blocks, leave

        jt, built = runtime.start_if_needed(), []
        for count in (0, self.activations) if self.activations and has_blocks() else (0,):
            inputs = [jt.array(array) for array in self.inputs]
            output = self.ours(*map(enter, inputs[:count]), *inputs[count:])
            output = leave(output) if output.ndim == 5 else output
            pull = jt.array(_pull(output.shape))
            gradients = jt.grad((output.float64() * pull).sum(), inputs) if self.backward else []
            built.append((output, gradients))
        return built

    def errors(self, built: Built, tf32: bool = False) -> tuple[float, float]:
        """Differences (forward, backward) of what `build` returned, once computed, from NumPy."""
        outputs = [output.numpy() for output, _ in built]
        gradients = zip(*([gradient.numpy() for gradient in found] for _, found in built))
        exact = [array.astype(np.float64) for array in self.inputs]
        expected = np.asarray(self.reference(*exact))
        if any(output.shape != expected.shape for output in outputs):
            return np.inf, np.inf
        largest = max(np.abs(expected).max(), 1e-30)
        forward = [np.abs(output - expected).max() / largest for output in outputs]
        backward, step, pull = [], 1e-6, _pull(expected.shape)
        for i, found in 3 * list(enumerate(gradients)):  # one direction may miss an error
            direction = self.rng.standard_normal(exact[i].shape)
            ahead, back = (
                (self.reference(*exact[:i], exact[i] + s * direction, *exact[i + 1 :]) * pull).sum()
                for s in (step, -step)
            )
            for gradient in found:
                error = abs((gradient * direction).sum() - (ahead - back) / (2 * step))
                backward.append(error / max(np.linalg.norm(gradient), 1e-30))
        return _worst(forward), _worst(backward) if self.backward else 0.0

    def allowed(self, tf32: bool) -> float:
        """The largest difference allowed."""
        return self.bound or OPERATOR_BOUNDS["tf32" if tf32 else "float32"]


BuiltNetwork = Tuple[List["runtime.jt.Var"], golden.Pass, List["runtime.jt.Var"]]


class NetworkCheck:
    """One row: a whole network, small, with the loss and its gradient."""

    backward = True

    def __init__(self, name: str):
        self.name, self.fixture = name, golden.load(name)

    def build(self) -> BuiltNetwork:
        """Probabilities of each shape by the network, then by its fast form; a pass in training
        mode; the buffers. Not yet computed.
        """
        self.net = build_model(self.name, dropout=False)
        outputs = [golden.build_evaluation(self.net, self.fixture, shape) for shape in EVALUATED]
        with runtime.jt.no_grad():
            fast = fast_form(self.net)
            outputs += [fast(golden.batch(shape)[0]) for shape in EVALUATED]
        trained = golden.build_training(self.net, self.fixture, TRAINED)
        return outputs, trained, list(self.net.state_dict().values())

    def errors(self, built: BuiltNetwork, tf32: bool = False) -> tuple[float, float]:
        """The worst (forward, backward): shares of what the standard allows, in TF32 the errors."""
        outputs, trained, _ = built
        found = [(shape, {"eval": output.numpy()})
                 for shape, output in zip(2 * EVALUATED, outputs)]
        found.append((TRAINED, golden.read_training(self.net, self.fixture, TRAINED, trained)))
        forward, backward = [], []
        for shape, results in found:
            for kind, errors in golden.errors(self.fixture, shape, results).items():
                part = backward if "gradient" in kind else forward
                if not tf32:
                    part.append(golden.share_of_bound(kind, errors, shape))
                elif kind not in ("gradient, largest", "zero gradients"):
                    part.append(errors[0])
        return _worst(forward), _worst(backward)

    def allowed(self, tf32: bool) -> float:
        """The largest share or error allowed."""
        return NETWORK_BOUNDS["tf32" if tf32 else "float32"]


def operator_checks() -> list[Check]:
    """The table: every kind of operator of the networks."""
    from model import llskm
    from model.layers import LEAKY, LINEAR, RELU, BatchNorm
    from model.ops import conv, elementwise, pool, resize
    from model.ops.llskm import FORM, FORMS, per_image_conv
    from utils.optim import Adam

    jt = runtime.start_if_needed()
    x = (4, 16, 24, 20)

    def convolution(name, shape, kernel, **arguments):
        return Check(f"convolution {name}", lambda x, w: conv.conv2d(x, w, **arguments),
                     lambda x, w: _conv(x, w, **arguments), shape, kernel)

    def norm(name, slope):
        def ours(x, weight, bias):
            layer = BatchNorm(16, slope)
            layer.weight, layer.bias = weight, bias
            layer.train()
            return layer(x)

        return Check(f"batch norm, {name}", ours, lambda *a: _norm(*a, slope), x, 16, 16)

    mean, var = np.arange(16.0) - 8, np.arange(16.0) + 1

    def fixed_norm(x, weight, bias):
        layer = BatchNorm(16, LEAKY)
        layer.eval()  # before: it stops the gradients of its parameters
        layer.weight, layer.bias = weight, bias
        layer.running_mean, layer.running_var = (
            jt.array(values.astype(np.float32)).stop_grad() for values in (mean, var))
        return layer(x)

    def scaled(x, weight, bias):
        return _scaled(x, weight, bias, LEAKY, mean, np.sqrt(var + 1e-5))

    def norm_without_gradient(*arguments):
        with jt.no_grad():
            return fixed_norm(*arguments)

    def attention(pooled, w1, g1, b1, w2, g2, b2):
        module = llskm.ChannelAttention(16)
        module.train()
        for place, values in ((1, w1), (4, w2)):
            getattr(module.avg_channel, str(place)).weight = values
        for place, weight, bias in ((2, g1, b1), (5, g2, b2)):
            layer = getattr(module.avg_channel, str(place))
            layer.weight, layer.bias = weight, bias
        return module(pooled)

    def in_form(form, module, x):
        with mock.patch.dict(os.environ, {FORM: form}):
            return module(x, None)

    def kernel(k, dilation, form):
        def ours(x, w, theta):
            module = llskm.LLSKM(8, k, dilation)
            module.conv.weight, module.attn = w, lambda pooled: theta
            return in_form(form, module, x)

        return Check(f"LLSKM {k}×{k}, dilation {dilation}, {form}", ours,
                     lambda *a: _llskm(*a, dilation), (4, 8, 24, 20), (8, 8, k, k), (4, 8, 1, 1))

    def separable_kernel(k, form):
        def ours(x, row, row_bias, column, column_bias, theta):
            module = llskm.LLSKM1D(8, k)
            module.conv_1xn.weight, module.conv_1xn.bias = row, row_bias
            module.conv_nx1.weight, module.conv_nx1.bias = column, column_bias
            module.attn = lambda pooled: theta
            return in_form(form, module, x)

        return Check(f"LLSKM {k}×1 and 1×{k}, {form}", ours, _separable_llskm, (4, 8, 24, 20),
                     (8, 8, 1, k), 8, (8, 8, k, 1), 8, (4, 8, 1, 1))

    def adam(p, *gradients):
        optimizer = Adam([p], lr=0.01)
        for g in gradients:
            optimizer.step((p * g).sum())
        return p

    def random_numbers():
        draws = jt.random((1000, 1000))  # in float32 the sums would be wrong
        kept = (draws >= 0.1).float64()
        return jt.concat([v.mean() for v in (draws.float64(), draws.float64().sqr(), kept)], 0)

    def per_image(x, w):
        return _conv(x.reshape(1, -1, *x.shape[2:]), w.reshape(-1, *w.shape[2:]), padding=4,
                     dilation=2, groups=4).reshape(4, 8, *x.shape[2:])

    return [
        convolution("3×3", x, (8, 16, 3, 3), padding=1),
        convolution("3×3 of one channel", (4, 1, 24, 20), (16, 1, 3, 3), padding=1),
        convolution("3×3, stride 2", x, (8, 16, 3, 3), padding=1, stride=2),
        convolution("1×1", x, (8, 16, 1, 1)),
        convolution("1×1 to one channel", x, (1, 16, 1, 1)),
        convolution("1×1 to four channels", x, (4, 16, 1, 1)),
        convolution("1×1, stride 2", x, (8, 16, 1, 1), stride=2),
        convolution("9×9, dilation 2", x, (16, 16, 9, 9), padding=8, dilation=2),
        convolution("1×17", x, (16, 16, 1, 17), padding=(0, 8)),
        convolution("17×1", x, (16, 16, 17, 1), padding=(8, 0)),
        Check("convolution per image, 5×5, dilation 2",
              lambda x, w: per_image_conv(x, w, 4, 2), per_image,
              (4, 8, 24, 20), (4, 8, 8, 5, 5)),
        *(check for form in FORMS
          for check in (kernel(9, 2, form), kernel(3, 1, form), separable_kernel(17, form))),
        norm("no activation", LINEAR), norm("ReLU", RELU), norm("LeakyReLU", LEAKY),
        Check("batch norm, evaluation", norm_without_gradient, scaled, x, 16, 16, backward=False),
        Check("batch norm, evaluation, with gradients", fixed_norm, scaled, x, 16, 16),
        Check("channel attention", attention, _attention, (6, 16, 1, 1), (4, 16, 1, 1), 4, 4,
              (16, 4, 1, 1), 16, 16, activations=0),
        Check("global average", elementwise.global_average,
              lambda x: x.mean((2, 3), keepdims=True), x),
        Check("max pooling", pool.max_pool2x2,
              lambda x: x.reshape(4, 16, 12, 2, 10, 2).max((3, 5)), x),
        Check("nearest upsampling", resize.upsample_nearest2x,
              lambda x: x.repeat(2, 2).repeat(2, 3), x),
        Check("bilinear resize", lambda x: resize.resize_bilinear(x, (48, 40)),
              lambda x: zoom(x, (1, 1, 2, 2), order=1, mode="nearest", grid_mode=True), x),
        Check("bilinear resize by no whole number", lambda x: resize.resize_bilinear(x, (45, 31)),
              lambda x: zoom(x, (1, 1, 45 / 24, 31 / 20), order=1, mode="nearest", grid_mode=True),
              x),
        Check("concatenation", elementwise.concat, lambda *a: np.concatenate(a, 1), x, x,
              activations=2),
        Check("padding", lambda x: resize.pad_to_multiple(x, 8),
              lambda x: np.pad(x, ((0, 0), (0, 0), (0, 5), (0, 3)), "edge"), (4, 16, 27, 21),
              activations=0),
        Check("sigmoid", elementwise.probability, expit, x),
        Check("SoftIoU", lambda p, g: soft_iou_loss(jt.sigmoid(p), jt.sigmoid(g)),
              lambda p, g: np.array([_soft_iou(expit(p), expit(g))]),
              (4, 1, 24, 20), (4, 1, 24, 20), activations=0),
        Check("Adam, three steps", adam, _adam, 500, 500, 500, 500, activations=0,
              backward=False),
        Check("random numbers (dropout)", random_numbers, lambda: np.array([1 / 2, 1 / 3, 0.9]),
              activations=0, backward=False, bound=3e-3),
    ]


def _pull(shape):
    return np.random.default_rng(7).standard_normal(shape)


def _worst(errors):
    """The largest error; infinite if one is NaN."""
    return max(np.inf if np.isnan(error) else float(error) for error in errors)


def run_checks(tf32: bool, checks: Sequence[Check | NetworkCheck]) -> list[str]:
    """Prints a row per check, and returns the names of those that failed.

    Args:
        tf32: True if the device may round factors to TF32.
    """
    print(f"\n{'largest relative difference':44}{'forward':>12}{'backward':>12}{'allowed':>12}")
    failed, networks = [], False
    for check, built in zip(checks, _computed(checks)):
        if isinstance(check, NetworkCheck) and not networks:
            networks = True
            print("networks: " + ("largest error" if tf32 else "as a share of the parity standard"))
        bound = check.allowed(tf32)
        if isinstance(built, Exception):
            fine, row = False, f"  cannot run: {' '.join(str(built).split())[-300:]}"
        else:
            forward, backward = check.errors(built, tf32)
            fine = max(forward, backward) <= bound
            row = (f"{forward:12.1e}" + (f"{backward:12.1e}" if check.backward else " " * 12)
                   + f"{bound:12.0e}{'' if fine else '  WRONG'}")
        print(f"{check.name:44}{row}", flush=True)
        if not fine:
            failed.append(check.name)
    return failed


def _computed(checks):
    """What each check builds, computed; an Exception in place of what cannot run.

    All at once, so that Jittor compiles on all processors.
    """
    try:
        return _compute([check.build() for check in checks])
    except Exception:
        return [_computed_alone(check) for check in checks]


def _computed_alone(check):
    try:
        return _compute(check.build())
    except Exception as error:  # Jittor raises a RuntimeError, our own operators others
        return error


def _compute(built):
    """Computes and returns what `build` returned; sync_all would skip inputs of other variables."""
    runtime.start_if_needed().sync(list(_variables(built)), True, False)
    return built


def _variables(built):
    if isinstance(built, (list, tuple)):
        for part in built:
            yield from _variables(part)
    else:
        yield built


# ---------------------------------------------------------------------------- what was found


def describe_machine(home: Path) -> None:
    """Prints the Python, compiler, driver, CUDA and cuDNN that were found."""
    def version(*command):
        try:
            text = subprocess.run(command, capture_output=True, text=True).stdout
        except OSError:
            text = ""
        return text.splitlines()[0] if text else "not found"

    try:
        release = re.search(r"Kernel Module.*?(\d+\.[\d.]+)",
                            Path("/proc/driver/nvidia/version").read_text()).group(1)
    except (OSError, AttributeError):
        release = "of unknown release"
    facts = [("Python", f"{platform.python_version()}, {sys.executable}"),
             ("compiler", version("g++", "--version")),
             ("Jittor's cache", f"{home}/.cache/jittor")]
    try:
        gpu = cuda.find_gpu()
        facts += [("NVIDIA driver", "{}, for CUDA up to {}.{}".format(release, *gpu.driver)),
                  ("GPU", f"{gpu.name}, compute capability {gpu.capability / 10}")]
        toolkit = cuda.find_toolkit(home / ".cache/jittor", gpu)
        facts.append(("CUDA", f"{toolkit.cuda}, cuDNN {toolkit.cudnn}: {toolkit.origin}"))
    except UserError as error:
        facts.append(("no CUDA", error))
    for name, value in facts:
        print(f"{name:16}{value}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 0 for PASS and 1 for FAIL."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.runtime", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device(parser, precision="float32")
    args = parser.parse_args(argv)
    refuse_bf16(args.precision)
    home = runtime.jittor_home()
    describe_machine(home)
    run = runtime.start(args.device, args.precision)
    print(run.describe())
    print("operators against NumPy in double precision, networks against the official ones")
    failed = run_checks(run.device == "cuda" and run.precision != "float32",
                        operator_checks() + [NetworkCheck(name) for name in MODEL_NAMES])
    if failed:
        cure = CURE[run.device].format(cache=home / ".cache/jittor")
        print(f"\nFAIL: {', '.join(failed)}\n{cure}")
        return 1
    print("\nPASS")
    return 0
