"""Whether this machine computes what the networks need: `python -m utils.runtime`.

Every kind of operator that the four networks use runs forward and backward, then the networks.
On a GPU all numbers are compared with those of the CPU; without one the operators are compared with
NumPy in double precision, backward by central differences of that, in both forms that activations
have on a CPU. (bfloat16 is not checked.) Run it first on a new machine:
Jittor's core, and on a GPU its CUDA part, are compiled on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom
from tqdm import tqdm

from model import MODEL_NAMES, build_model, soft_iou_loss
from utils import environment, runtime
from utils.cli import add_device, refuse_bf16
from utils.errors import UserError
from utils.runtime import cuda

# Largest differences allowed, relative to the largest number: of an operator, and of a network,
# whose batch norms (the innermost has one value an image) enlarge what its operators do. TF32
# rounds factors to 11 bits, 5e-4: simulated on the CPU it changed operators by up to 5e-3 and the
# UNet's gradient by 0.2 of its length.
BOUNDS = {"float32": (1e-4, 1e-2), "tf32": (1e-2, 0.5)}
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
    mean, std = x.mean((0, 2, 3), keepdims=True), np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)
    z = (x - mean) / std * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)
    return np.where(z > 0, z, slope * z)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _attention(pooled, w1, g1, b1, w2, g2, b2):
    return _sigmoid(_norm(_conv(_norm(_conv(pooled, w1), g1, b1, 0), w2), g2, b2, 1))


def _llskm(x, w, theta, dilation):
    """The official form: three convolutions."""
    half = w.shape[2] // 2
    surround = _conv(x, w, padding=half * dilation, dilation=dilation)
    centre = _conv(x, w[:, :, half : half + 1, half : half + 1])
    return _conv(x, w.sum((2, 3), keepdims=True)) - surround + theta * centre


def _adam(p, *gradients):
    m = v = 0
    for step, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return p


# ---------------------------------------------------------------------------- checks


class Check:
    """One row: a function of Jittor variables, and the same of NumPy arrays.

    Args:
        ours, reference: functions of the inputs.
        shapes: of the inputs, which are drawn from N(0, 1).
        activations: how many of them, from the first on, networks on a CPU have in blocks of
            channels (`model.ops.layout`): there this form is checked as well.
        backward: whether it has a gradient.
        bound: the largest difference allowed, where the common one does not fit.
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

    def compute(
        self, device: str, blocks: bool = False
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """The output and the gradients of its inner product with a fixed array."""
        from model.ops.layout import enter, leave

        with _on(device) as jt:
            inputs = [jt.array(array) for array in self.inputs]
            count = self.activations if blocks else 0
            output = self.ours(*map(enter, inputs[:count]), *inputs[count:])
            output = leave(output) if output.ndim == 5 else output
            gradients = []
            if self.backward:
                pull = jt.array(_pull(output.shape))
                gradients = jt.grad((output.float64() * pull).sum(), inputs)
            jt.sync_all(True)
            return output.numpy(), [gradient.numpy() for gradient in gradients]

    def against_cpu(self) -> tuple[float, float]:
        """Differences (forward, backward) of the GPU's numbers from the CPU's."""
        (output, gradients), (expected, slopes) = self.compute("cuda"), self.compute("cpu")
        return _difference(output, expected), max(map(_difference, gradients, slopes), default=0)

    def against_numpy(self) -> tuple[float, float]:
        """Differences (forward, backward) of the CPU's numbers from double precision."""
        from model.ops.layout import has_blocks

        forms = (False, True) if self.activations and has_blocks() else (False,)
        outputs, gradients = zip(*(self.compute("cpu", blocks) for blocks in forms))
        exact = [array.astype(np.float64) for array in self.inputs]
        expected = np.asarray(self.reference(*exact))
        if any(output.shape != expected.shape for output in outputs):
            return np.inf, np.inf
        worst, step, pull = 0, 1e-6, _pull(expected.shape)
        for i, found in 3 * list(enumerate(zip(*gradients))):  # an error may be normal to one
            direction = self.rng.standard_normal(exact[i].shape)
            ahead, back = (
                (self.reference(*exact[:i], exact[i] + s * direction, *exact[i + 1 :]) * pull).sum()
                for s in (step, -step)
            )
            for gradient in found:
                error = abs((gradient * direction).sum() - (ahead - back) / (2 * step))
                error /= max(np.linalg.norm(gradient), 1e-30)
                worst = max(worst, error if np.isfinite(error) else np.inf)
        return max(_difference(output, expected) for output in outputs), worst


class NetworkCheck:
    """One row: a whole network, small, with the loss and its gradient."""

    backward, bound = True, None

    def __init__(self, name: str):
        self.name = name
        rng = np.random.default_rng(1)
        self.images = rng.random((6, 1, 32, 40)).astype(np.float32)
        self.masks = (rng.random((6, 1, 32, 40)) < 0.1).astype(np.float32)
        runtime.set_seed(1)
        from utils.checkpoint.weights import get_weights

        self.weights = get_weights(build_model(name))

    def compute(
        self, device: str, shift: float = 0.0, along: dict[str, np.ndarray] | None = None
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Probabilities, loss, gradients and running statistics, at weights + shift · along."""
        from utils.checkpoint.weights import get_weights, load_weights

        with _on(device) as jt:
            net = build_model(self.name, dropout=False)  # its numbers differ between devices
            moved = {name: w + shift * along[name] if along else w
                     for name, w in self.weights.items()}
            load_weights(net, moved)
            net.train()
            loss = soft_iou_loss(net(jt.array(self.images)), jt.array(self.masks))
            names, parameters = zip(*((name, p) for name, p in net.state_dict().items()
                                      if not p.is_stop_grad()))
            gradients = jt.grad(loss, list(parameters))
            jt.sync_all(True)
            gradients = {name: g.numpy() for name, g in zip(names, gradients)}
            buffers = [w for name, w in get_weights(net).items() if "running" in name]
            value = loss.item()
            net.eval()
            with jt.no_grad():
                probabilities = net(jt.array(self.images[:, :, :27, :35])).numpy()
            return [probabilities, np.array(value), *buffers], gradients

    def against_cpu(self) -> tuple[float, float]:
        """Differences (forward, backward) of the GPU's numbers from the CPU's."""
        (outputs, gradients), (expected, slopes) = self.compute("cuda"), self.compute("cpu")
        return max(map(_difference, outputs, expected)), _distance(gradients, slopes)

    def against_numpy(self) -> tuple[float, float]:
        """Backward: the gradient's length against the slope of the loss along it."""
        outputs, gradients = self.compute("cpu")
        length = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients.values()))
        along = {name: gradients.get(name, 0) / length for name in self.weights}
        step = 1e-4
        ahead, back = (self.compute("cpu", shift, along)[0][1] for shift in (step, -step))
        slope = abs((ahead - back) / (2 * step) / length - 1)
        fine = all(np.isfinite(array).all() for array in outputs)
        return (0 if fine else np.inf), slope


def operator_checks() -> list[Check]:
    """The table: every kind of operator of the networks."""
    from model import llskm
    from model.ops import conv, elementwise, pool, resize
    from model.ops.batch_norm import LEAKY, LINEAR, RELU, BatchNorm
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

    def attention(pooled, w1, g1, b1, w2, g2, b2):
        module = llskm.ChannelAttention(16)
        module.train()
        for place, values in ((1, w1), (4, w2)):
            getattr(module.avg_channel, str(place)).weight = values
        for place, weight, bias in ((2, g1, b1), (5, g2, b2)):
            layer = getattr(module.avg_channel, str(place))
            layer.weight, layer.bias = weight, bias
        return module(pooled)

    def kernel(k, dilation):
        def ours(x, w, theta):
            module = llskm.LLSKM(8, k, dilation)
            module.conv.weight, module.attn = w, lambda pooled: theta
            return module(x, None)

        return Check(f"LLSKM {k}×{k}, dilation {dilation}", ours,
                     lambda *a: _llskm(*a, dilation), (4, 8, 24, 20), (8, 8, k, k), (4, 8, 1, 1))

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
        convolution("1×1, stride 2", x, (8, 16, 1, 1), stride=2),
        convolution("1×17", x, (16, 16, 1, 17), padding=(0, 8)),
        convolution("17×1", x, (16, 16, 17, 1), padding=(8, 0)),
        Check("convolution per image, 5×5, dilation 2",
              lambda x, w: llskm.per_image_conv(x, w, 4, 2), per_image,
              (4, 8, 24, 20), (4, 8, 8, 5, 5)),
        kernel(9, 2), kernel(3, 1),
        norm("no activation", LINEAR), norm("ReLU", RELU), norm("LeakyReLU", LEAKY),
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
        Check("concatenation", lambda *a: jt.concat(list(a), 1), lambda *a: np.concatenate(a, 1),
              x, x, activations=2),
        Check("padding", lambda x: resize.pad_to_multiple(x, 8),
              lambda x: np.pad(x, ((0, 0), (0, 0), (0, 5), (0, 3)), "edge"), (4, 16, 27, 21),
              activations=0),
        Check("sigmoid", elementwise.probability, _sigmoid, x),
        Check("SoftIoU", lambda p, g: soft_iou_loss(jt.sigmoid(p), jt.sigmoid(g)),
              lambda p, g: np.array([soft_iou_loss(_Array(_sigmoid(p)), _Array(_sigmoid(g)))]),
              (4, 1, 24, 20), (4, 1, 24, 20), activations=0),
        Check("Adam, three steps", adam, _adam, 500, 500, 500, 500, activations=0,
              backward=False),
        Check("random numbers (dropout)", random_numbers, lambda: np.array([1 / 2, 1 / 3, 0.9]),
              activations=0, backward=False, bound=3e-3),
    ]


class _Array(np.ndarray):
    """A NumPy array with the one method of Jittor's that the loss calls."""

    def __new__(cls, array):
        return array.view(cls)

    def float64(self):
        return self


def _pull(shape):
    return np.random.default_rng(7).standard_normal(shape)


@contextlib.contextmanager
def _on(device):
    jt = runtime.start_if_needed()
    before = jt.flags.use_cuda
    runtime.use_cuda(device == "cuda")
    try:
        yield jt
    finally:
        runtime.use_cuda(before)


def _difference(a, b):
    """The largest difference, relative to the largest number; infinite for NaN."""
    if a.shape != b.shape:
        return np.inf
    value = np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)
    return value if np.isfinite(value) else np.inf


def _distance(a, b):
    """The length of the difference of two gradients, relative to that of the second."""
    lengths = [np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in arrays))
               for arrays in ([a[name] - b[name] for name in b], b.values())]
    value = lengths[0] / max(lengths[1], 1e-30)
    return value if np.isfinite(value) else np.inf


def run_checks(
    device: str, precision: str, checks: Sequence[Check | NetworkCheck]
) -> list[str]:
    """Prints a row per check, and returns the names of those that failed."""
    tf32 = device == "cuda" and precision != "float32"
    operator_bound, network_bound = BOUNDS["tf32" if tf32 else "float32"]
    print(f"\n{'largest relative difference':44}{'forward':>12}{'backward':>12}{'allowed':>12}")
    failed = []
    for check in tqdm(checks, leave=False, unit="check", disable=None):
        forward, backward = check.against_cpu() if device == "cuda" else check.against_numpy()
        network = isinstance(check, NetworkCheck)
        bound = check.bound or (network_bound if network else operator_bound)
        fine = max(forward, backward) <= bound
        slope = f"{backward:12.1e}" if check.backward else " " * 12
        ahead = " " * 12 if network and device == "cpu" and fine else f"{forward:12.1e}"
        tqdm.write(f"{check.name:44}{ahead}{slope}{bound:12.0e}{'' if fine else '  WRONG'}")
        if not fine:
            failed.append(check.name)
    return failed


# ---------------------------------------------------------------------------- what was found


def describe_machine(home: Path) -> None:
    """Prints Python, compiler, driver, CUDA and cuDNN as found."""
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
    home = Path(environment.jittor_home())
    describe_machine(home)
    run = runtime.start(args.device, args.precision)
    print(run.describe())
    print("GPU against CPU" if run.device == "cuda" else
          "no GPU is used: the CPU against NumPy in double precision")
    failed = run_checks(run.device, run.precision,
                        operator_checks() + [NetworkCheck(name) for name in MODEL_NAMES])
    if failed:
        cure = CURE[run.device].format(cache=home / ".cache/jittor")
        print(f"\nFAIL: {', '.join(failed)}\n{cure}")
        return 1
    print("\nPASS")
    return 0
