"""Where stock Jittor, this project and PyTorch compute different things, and how far (Markdown).

    python -m benchmarks.framework_differences

Each row is a quantity that the networks or their training depend on. A number is a distance: the
largest difference from the truth, which NumPy computes in float64 by PyTorch's definition, over
the largest value of the truth. What is no distance is shown as it is. All three work on the same
inputs; PyTorch runs in a process of its own, because its oneDNN and Jittor's clash, and its column
stays empty where it is not installed. docs/differences.md says what follows from the numbers.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from utils import cli, runtime

SIDES = ("truth", "stock", "ours", "pytorch")
EPS, MOMENTUM = 1e-5, 0.1  # of batch norm, in both frameworks


def main(argv=None) -> None:
    parser = cli.make_parser(__doc__)
    parser.add_argument("--only", metavar="TEXT", default="",
                        help="the rows whose difference contains it")
    args = parser.parse_args(argv)
    print(runtime.start(args.device).describe())
    chosen = [i for i, entry in enumerate(DIFFERENCES) if args.only in entry.name]
    others = [{}] * len(chosen)
    if importlib.util.find_spec("torch"):
        print(f"PyTorch {importlib.metadata.version('torch')}, on the CPU, in another process")
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            others = list(pool.map(run_pytorch, chosen))
    print("\n| difference | quantity | stock Jittor | ours | PyTorch |\n|---|---|---|---|---|")
    for index, pytorch in zip(chosen, others):
        entry = DIFFERENCES[index]
        for quantity, *cells in rows(measure(entry), pytorch):
            print(f"| {entry.name} | {quantity} |", " | ".join(cells), "|", flush=True)


def run_pytorch(index):
    """What PyTorch makes of an entry; called in its process."""
    import torch

    return DIFFERENCES[index].pytorch(torch)


def measure(entry) -> dict:
    """The truth, and what stock Jittor and our code make of an entry: side → quantity → result."""
    jt = runtime.jt
    return {"truth": entry.truth(), "stock": entry.stock(jt), "ours": entry.ours(jt)}


def rows(results, pytorch=None):
    """(quantity, stock, ours, PyTorch) as text, for each quantity of the results of `measure`."""
    results = {**results, "pytorch": pytorch or {}}
    for quantity, truth in results["truth"].items():
        yield quantity, *(_cell(results[side].get(quantity), truth) for side in SIDES[1:])


def _cell(result, truth):
    if result is None:
        return ""
    return result if isinstance(result, str) else f"{distance(result, truth):.1e}"


def distance(result, truth) -> float:
    """Largest difference over the largest value of the truth (over 1 if that is 0)."""
    truth = np.asarray(truth, np.float64)
    return float(np.abs(np.asarray(result, np.float64) - truth).max() / (np.abs(truth).max() or 1))


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _try(function):
    """"accepted" or "refused", and nothing of what is printed meanwhile."""
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        try:
            function()
        except Exception:  # each framework has its own
            return "refused"
    return "accepted"


class BatchNorm:
    """Some batches in training mode, then the last one in evaluation mode.

    Args:
        where: what the shape stands for.
        shape: N×C×H×W.
        mean, std: of the input, and of the running statistics at first.
        batches: how often these are updated.
    """

    def __init__(self, where, shape, mean=0.0, std=1.0, batches=1):
        self.name = f"batch norm, {where}"
        self.shape, self.mean, self.std, self.batches = shape, mean, std, batches

    def inputs(self):
        """The batches, and a gradient of the last output."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        batches = [mean + std * _normal(*self.shape, seed=i) for i in range(self.batches)]
        return batches, _normal(*self.shape, seed=99)

    def start(self):
        """Running mean and variance before the first batch."""
        ones = np.ones(self.shape[1], np.float32)
        return ones * np.float32(self.mean), ones * np.float32(self.std**2)

    def truth(self):
        batches, dy = self.inputs()
        running = self.start()
        for x in batches:
            x = x.astype(np.float64)
            mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
            new = mean.ravel(), x.var((0, 2, 3), ddof=1)
            running = [r * (1 - MOMENTUM) + n * MOMENTUM for r, n in zip(running, new)]
        y = (x - mean) / np.sqrt(var + EPS)
        dx = dy - dy.mean((0, 2, 3), keepdims=True, dtype=np.float64)
        dx -= y * (dy * y).mean((0, 2, 3), keepdims=True)
        dx /= np.sqrt(var + EPS)
        mean, var = (r.reshape(1, -1, 1, 1) for r in running)
        evaluated = (x - mean) / np.sqrt(var + EPS)
        return self._results(y, dx, *running, evaluated)

    @staticmethod
    def _results(y, dx, mean, var, evaluated):
        return {"training output": y, "input gradient": dx, "running mean": mean,
                "running variance": var, "evaluation output": evaluated}

    def stock(self, jt):
        return self._jittor(jt, jt.nn.BatchNorm(self.shape[1]))

    def ours(self, jt):
        from model.ops.batch_norm import LINEAR, BatchNorm

        return self._jittor(jt, BatchNorm(self.shape[1], LINEAR))

    def _jittor(self, jt, norm):
        batches, dy = self.inputs()
        for running, value in zip((norm.running_mean, norm.running_var), self.start()):
            running.update(jt.array(value))
        norm.train()
        for array in batches:
            x = jt.array(array)
            y = norm(x)
            dx = jt.grad((y * jt.array(dy)).sum(), x)
            jt.sync_all(True)
        norm.eval()
        with jt.no_grad():
            evaluated = norm(x).numpy()
        running = norm.running_mean.numpy(), norm.running_var.numpy()
        return self._results(y.numpy(), dx.numpy(), *running, evaluated)

    def pytorch(self, torch):
        batches, dy = self.inputs()
        norm = torch.nn.BatchNorm2d(self.shape[1])
        for running, value in zip((norm.running_mean, norm.running_var), self.start()):
            running.copy_(torch.tensor(value))
        for array in batches:
            x = torch.tensor(array, requires_grad=True)
            y = norm(x)
            y.backward(torch.tensor(dy))
        norm.eval()
        with torch.inference_mode():
            evaluated = norm(x).numpy()
        running = norm.running_mean.numpy(), norm.running_var.numpy()
        return self._results(y.detach().numpy(), x.grad.numpy(), *running, evaluated)


class BiasBeforeNorm:
    """A convolution's bias, which batch norm cancels: its gradient is zero."""

    name = "bias before a batch norm"
    shape = 8, 16, 64, 64

    def inputs(self):
        return _normal(*self.shape), _normal(16, 16, 1, 1, seed=1), _normal(*self.shape, seed=2)

    def truth(self):
        return {"its gradient": np.zeros(16)}

    def stock(self, jt):
        norm = jt.nn.BatchNorm(16)
        return self._jittor(jt, lambda y, bias: norm(y + bias.reshape(1, -1, 1, 1)))

    def ours(self, jt):
        from model.ops.batch_norm import LINEAR, BatchNorm

        return self._jittor(jt, BatchNorm(16, LINEAR))

    def _jittor(self, jt, norm):
        x, weight, dy = map(jt.array, self.inputs())
        bias = jt.zeros(16)
        gradient = jt.grad((norm(jt.nn.conv2d(x, weight), bias) * dy).sum(), bias)
        return {"its gradient": gradient.numpy()}

    def pytorch(self, torch):
        x, weight, dy = map(torch.tensor, self.inputs())
        bias = torch.zeros(16, requires_grad=True)
        y = torch.nn.functional.conv2d(x, weight, bias)
        torch.nn.functional.batch_norm(y, None, None, training=True).backward(dy)
        return {"its gradient": bias.grad.numpy()}


class GlobalAverage:
    """The pooling of θ."""

    name = "float32 sums"
    shape = 8, 16, 256, 256
    quantity = "mean of 256×256 values of 0 to 1"

    def inputs(self):
        return np.random.default_rng(0).random(self.shape, np.float32)

    def truth(self):
        return {self.quantity: self.inputs().mean((2, 3), keepdims=True, dtype=np.float64)}

    def stock(self, jt):
        return {self.quantity: jt.array(self.inputs()).mean((2, 3), keepdims=True).numpy()}

    def ours(self, jt):
        from model.llskm import global_average

        return {self.quantity: global_average(jt.array(self.inputs())).numpy()}

    def pytorch(self, torch):
        pooled = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(self.inputs()), 1)
        return {self.quantity: pooled.numpy()}


class BiasGradient:
    """The bias of a convolution that no batch norm follows: heads, and the 1-D kernels."""

    name = "float32 sums"
    shape = 8, 4, 256, 256
    quantity = "gradient of a convolution's bias, 8×4×256×256"

    def inputs(self):
        """x, and a gradient of the output."""
        return _normal(8, 1, 256, 256), _normal(*self.shape, seed=1) + 1

    def truth(self):
        return {self.quantity: self.inputs()[1].sum((0, 2, 3), dtype=np.float64)}

    def stock(self, jt):
        return self._jittor(jt, jt.nn.Conv2d)

    def ours(self, jt):
        from model.ops.conv import Conv2d

        return self._jittor(jt, Conv2d)

    def _jittor(self, jt, layer):
        x, dy = map(jt.array, self.inputs())
        conv = layer(1, self.shape[1], 1)
        return {self.quantity: jt.grad((conv(x) * dy).sum(), conv.bias).numpy()}

    def pytorch(self, torch):
        x, dy = map(torch.tensor, self.inputs())
        conv = torch.nn.Conv2d(1, self.shape[1], 1)
        conv(x).backward(dy)
        return {self.quantity: conv.bias.grad.numpy()}


class Loss:
    """SoftIoU over a whole batch, its sums over half a million values."""

    name = "float32 sums"
    shape = 8, 1, 256, 256

    def inputs(self):
        rng = np.random.default_rng(0)
        return rng.random(self.shape, np.float32), np.float32(rng.random(self.shape) > 0.999)

    @staticmethod
    def formula(p, g):
        intersection = (p * g).sum()
        return 1 - (intersection + 1) / (p.sum() + g.sum() - intersection + 1)

    def truth(self):
        p, g = (array.astype(np.float64) for array in self.inputs())
        union = p.sum() + g.sum() - (p * g).sum() + 1
        gradient = -g / union + (1 - g) * ((p * g).sum() + 1) / union**2
        return self._results(self.formula(p, g), gradient)

    @staticmethod
    def _results(loss, gradient):
        # 1 − loss is what training raises, and what the rounding of a loss near 1 swallows.
        return {"1 − SoftIoU loss, 8×1×256×256": 1 - np.float64(loss), "its gradient": gradient}

    def stock(self, jt):
        return self._jittor(jt, self.formula)

    def ours(self, jt):
        from model import soft_iou_loss

        return self._jittor(jt, soft_iou_loss)

    def _jittor(self, jt, formula):
        p, g = map(jt.array, self.inputs())
        loss = formula(p, g)
        gradient = jt.grad(loss, p)
        jt.sync_all(True)
        return self._results(loss.item(), gradient.numpy())

    def pytorch(self, torch):
        p, g = map(torch.tensor, self.inputs())
        loss = self.formula(p.requires_grad_(), g)
        loss.backward()
        return self._results(loss.item(), p.grad.numpy())


class AdamEpsilon:
    """Steps of Adam down constant gradients of some size."""

    name = "Adam's ε"
    steps, sizes = 10, (1e-4, 1e-6, 1e-8)

    def _results(self, update):
        """From a function (gradient, number of steps, learning rate) → what the parameter moved."""
        return {f"{self.steps} steps down a gradient of {size:g}": update(size)
                for size in self.sizes}

    def truth(self):
        # A constant gradient is its own moving average, and its square that of the squares.
        return self._results(lambda size: -1e-3 * self.steps * size / (size + 1e-8))

    def stock(self, jt):
        return self._jittor(jt, jt.optim.Adam)

    def ours(self, jt):
        from utils.optim import Adam

        return self._jittor(jt, Adam)

    def _jittor(self, jt, optimiser):
        def update(size):
            p = jt.zeros(1)
            adam = optimiser([p], lr=1e-3)
            for _ in range(self.steps):
                adam.step((p * size).sum())
            return p.numpy()

        return self._results(update)

    def pytorch(self, torch):
        def update(size):
            p = torch.zeros(1, requires_grad=True)
            adam = torch.optim.Adam([p], lr=1e-3)
            for _ in range(self.steps):
                adam.zero_grad()
                (p * size).sum().backward()
                adam.step()
            return p.detach().numpy()

        return self._results(update)


class Schedule:
    """The rate of each epoch, lowered after the 200th."""

    name = "MultiStepLR"
    epochs = 199, 200, 201, 202

    def _results(self, optimiser, scheduler, rate):
        rates = []
        for _ in range(self.epochs[-1]):
            rates.append(rate(optimiser))
            scheduler.step()
        savable = hasattr(scheduler, "state_dict")
        return self._text([rates[epoch - 1] for epoch in self.epochs], savable)

    def _text(self, rates, savable):
        epochs = f"rate in epochs {self.epochs[0]} to {self.epochs[-1]}"
        return {epochs: " ".join(f"{rate:.0e}" for rate in rates),
                "has a state to save": "yes" if savable else "no"}

    def truth(self):
        return self._text([5e-4, 5e-4, 5e-5, 5e-5], True)

    def stock(self, jt):
        from jittor.lr_scheduler import MultiStepLR

        adam = jt.optim.Adam([jt.zeros(1)], lr=5e-4)
        return self._results(adam, MultiStepLR(adam, [200, 300]), lambda adam: adam.lr)

    def ours(self, jt):
        from utils.optim import Adam, MultiStepLR

        adam = Adam([jt.zeros(1)], lr=5e-4)
        return self._results(adam, MultiStepLR(adam, [200, 300]), lambda adam: adam.lr)

    def pytorch(self, torch):
        adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=5e-4)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(adam, [200, 300])
        adam.step()  # or it warns
        return self._results(adam, scheduler, lambda adam: adam.param_groups[0]["lr"])


class Shuffle:
    """The order of the 663 training images in the first epoch."""

    name = "shuffling"
    count = 663

    def _results(self, order):
        """From a function seed → order."""
        a, b = np.asarray(order(1)), np.asarray(order(2))
        return {"images in the same place with seeds 1 and 2": f"{(a == b).sum()} of {self.count}"}

    def truth(self):
        rng = np.random.default_rng(0)
        return self._results(lambda seed: rng.permutation(self.count))

    def stock(self, jt):
        class Indices(jt.dataset.Dataset):
            def __getitem__(self, index):
                return index

        def order(seed):
            jt.set_global_seed(seed)
            whole = {"total_len": self.count, "batch_size": self.count, "shuffle": True}
            return next(iter(Indices().set_attrs(**whole))).numpy()

        return self._results(order)

    def ours(self, jt):
        from utils.data.datasets import Split, train_batches

        dots = [np.zeros((2, 2), np.uint8)] * self.count
        split = Split("", "train", Path(), list(range(self.count)), dots, dots)
        return self._results(lambda seed: next(train_batches(split, self.count, 2, seed, 1))[0])

    def pytorch(self, torch):
        def order(seed):
            torch.manual_seed(seed)
            return list(torch.utils.data.RandomSampler(range(self.count)))

        return self._results(order)


class InitialWeights:
    """A new 3×3 convolution of 64 to 128 channels."""

    name = "initial weights"
    channels = 64, 128

    def _results(self, weight, bias):
        root = (9 * self.channels[0]) ** 0.5
        return {
            "largest weight · √fan_in": f"{np.abs(weight).max() * root:.1f}",
            "spread of the weights · √fan_in": f"{weight.std() * root:.2f}",
            "largest bias · √fan_in": f"{np.abs(bias).max() * root:.1f}",
        }

    def truth(self):
        rng, bound = np.random.default_rng(0), (9 * self.channels[0]) ** -0.5
        return self._results(rng.uniform(-bound, bound, 100_000), rng.uniform(-bound, bound, 128))

    def stock(self, jt):
        conv = jt.nn.Conv2d(*self.channels, 3)
        return self._results(conv.weight.numpy(), conv.bias.numpy())

    def ours(self, jt):
        from model.ops.conv import Conv2d

        conv = Conv2d(*self.channels, 3)
        return self._results(conv.weight.numpy(), conv.bias.numpy())

    def pytorch(self, torch):
        conv = torch.nn.Conv2d(*self.channels, 3)
        return self._results(conv.weight.detach().numpy(), conv.bias.detach().numpy())


class Layer:
    """A layer without weights: its output, and the gradient of its input.

    Args:
        name: of the difference.
        x: the input.
        truth: NumPy function x, dy → y, dx; it is given dy as a function of the shape.
        stock, ours: Jittor function (jt, x) → y.
        pytorch: function (torch, x) → y.
    """

    def __init__(self, name, x, truth, stock, ours, pytorch):
        self.name, self.x = name, x
        self._truth, self._stock, self._ours, self._pytorch = truth, stock, ours, pytorch

    @staticmethod
    def _dy(shape):
        return _normal(*shape, seed=9)

    @staticmethod
    def _results(y, dx):
        return {"output": y, "input gradient": dx}

    def truth(self):
        return self._results(*self._truth(self.x.astype(np.float64), self._dy))

    def stock(self, jt):
        return self._jittor(jt, self._stock)

    def ours(self, jt):
        return self._jittor(jt, self._ours)

    def _jittor(self, jt, layer):
        x = jt.array(self.x)
        y = layer(jt, x)
        dx = jt.grad((y * jt.array(self._dy(y.shape))).sum(), x)
        jt.sync_all(True)
        return self._results(y.numpy(), dx.numpy())

    def pytorch(self, torch):
        x = torch.tensor(self.x, requires_grad=True)
        y = self._pytorch(torch, x)
        y.backward(torch.tensor(self._dy(y.shape)))
        return self._results(y.detach().numpy(), x.grad.numpy())


def _bilinear(size, new_size):
    """The entry of a bilinear resize with half-pixel centres (align_corners=False)."""

    def truth(x, dy):
        centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
        matrix = np.stack([np.interp(centres, np.arange(size), row) for row in np.eye(size)], 1)
        y = matrix @ x @ matrix.T
        return y, matrix.T @ dy(y.shape) @ matrix

    def ours(jt, x):
        from model.ops.resize import resize_bilinear

        return resize_bilinear(x, (new_size, new_size))

    return Layer(
        f"bilinear resize, {size} to {new_size}", _normal(2, 3, size, size), truth,
        lambda jt, x: jt.nn.interpolate(x, size=(new_size, new_size), mode="bilinear"),
        ours,
        lambda torch, x: torch.nn.functional.interpolate(x, (new_size, new_size), mode="bilinear"),
    )


def _nearest():
    """The entry of the UNet's doubling."""

    def truth(x, dy):
        y = x.repeat(2, 2).repeat(2, 3)
        return y, _blocks(dy(y.shape)).sum((3, 5), dtype=np.float64)

    def ours(jt, x):
        from model.ops.resize import upsample_nearest2x

        return upsample_nearest2x(x)

    return Layer(
        "nearest resize, 21 to 42", _normal(2, 3, 21, 21), truth,
        lambda jt, x: jt.nn.Upsample(scale_factor=2)(x), ours,
        lambda torch, x: torch.nn.Upsample(scale_factor=2)(x),
    )


def _blocks(x):
    """N×C×2H×2W as N×C×H×2×W×2."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2)


def _max_pool():
    """The entry of the UNet's pooling, on values with many ties, as a ReLU makes them."""

    def truth(x, dy):
        n, c, h, w = x.shape
        flat = _blocks(x).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
        y = flat.max(-1)
        dx = np.eye(4)[flat.argmax(-1)] * dy(y.shape)[..., None]  # argmax is the first of a tie
        dx = dx.reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(x.shape)
        return y, dx

    def ours(jt, x):
        from model.ops.pool import max_pool2x2

        return max_pool2x2(x)

    return Layer(
        "max-pool, ties", np.maximum(_normal(2, 3, 32, 32).round(), 0), truth,
        lambda jt, x: jt.nn.MaxPool2d(2)(x), ours, lambda torch, x: torch.nn.MaxPool2d(2)(x),
    )


def _leaky():
    """The entry of the contrast branches' activation, zeros included."""

    def truth(x, dy):
        slopes = np.where(x > 0, 1, np.float32(0.1))
        return x * slopes, dy(x.shape) * slopes

    def ours(jt, x):
        from model.ops.batch_norm import LEAKY, activate

        return activate(x, LEAKY)

    return Layer(
        "LeakyReLU(0.1)", np.maximum(_normal(2, 3, 32, 32), -1).round(1), truth,
        lambda jt, x: jt.nn.LeakyReLU(0.1)(x), ours,
        lambda torch, x: torch.nn.LeakyReLU(0.1)(x),
    )


def _convolution(kernel_size, dilation):
    """The entry of a convolution, in the library that each framework calls."""
    weight = _normal(16, 16, kernel_size, kernel_size, seed=1) / np.float32(4 * kernel_size)
    half = dilation * (kernel_size // 2)

    def correlate(x, w):
        x = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)))
        size = 2 * half + 1
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
        return np.einsum("nihwkl,oikl->nohw", windows[..., ::dilation, ::dilation], w,
                         optimize=True)

    def truth(x, dy):
        w = weight.astype(np.float64)
        return correlate(x, w), correlate(dy(x.shape).astype(np.float64),
                                          w.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])

    def ours(jt, x):
        from model.ops.conv import conv2d

        return conv2d(x, jt.array(weight), padding=half, dilation=dilation)

    return Layer(
        f"convolution {kernel_size}×{kernel_size}, dilation {dilation}", _normal(2, 16, 32, 32),
        truth,
        lambda jt, x: jt.nn.conv2d(x, jt.array(weight), None, 1, half, dilation), ours,
        lambda torch, x: torch.nn.functional.conv2d(
            x, torch.tensor(weight), None, 1, half, dilation),
    )


class SmallestPool:
    """The pooling of a 2×2 map, which an image of 8×8 becomes."""

    name = "max-pool"

    @staticmethod
    def _results(gradient):
        """From a function that gives the input's gradient on a map of ones."""
        try:
            numbers = " ".join(f"{value:g}" for value in np.ravel(gradient()))
        except RuntimeError:
            numbers = "refused"
        return {"gradient of a map of 2×2 equal values": numbers}

    def truth(self):
        return self._results(lambda: [1, 0, 0, 0])

    def stock(self, jt):
        return self._jittor(jt, lambda x: jt.nn.MaxPool2d(2)(x))

    def ours(self, jt):
        from model.ops.pool import max_pool2x2

        return self._jittor(jt, max_pool2x2)

    def _jittor(self, jt, pool):
        x = jt.ones((1, 1, 2, 2))
        return self._results(lambda: jt.grad(pool(x).sum(), x).numpy())

    def pytorch(self, torch):
        x = torch.ones(1, 1, 2, 2, requires_grad=True)
        torch.nn.MaxPool2d(2)(x).sum().backward()
        return self._results(x.grad.numpy)


class Dropout:
    """Whether the FPN's dropout works in a module just made, before any call of train()."""

    name = "dropout"

    def _results(self, layer):
        """From a function that gives random values when dropout is on."""
        return {"at work in a new module": "no" if np.array_equal(layer(), layer()) else "yes"}

    def truth(self):
        return {"at work in a new module": "yes"}

    def stock(self, jt):
        layer = jt.nn.Dropout(0.1)
        return self._results(lambda: layer(jt.ones((64, 64))).numpy())

    def ours(self, jt):
        from model.fpn import Head

        layer, x = Head(16), jt.array(_normal(2, 16, 16, 16))
        return self._results(lambda: layer(x).numpy())

    def pytorch(self, torch):
        layer = torch.nn.Dropout(0.1)
        return self._results(lambda: layer(torch.ones(64, 64)).numpy())


class AdamInEvaluation:
    """Whether an Adam made while the network is in evaluation mode moves its weights."""

    name = "eval()"
    quantity = "an Adam made after it trains"

    def _results(self, weight, train):
        before = weight.detach().numpy().copy()
        train()
        return {self.quantity: "no" if (weight.detach().numpy() == before).all() else "yes"}

    def truth(self):
        return {self.quantity: "yes"}

    def stock(self, jt):
        layer = jt.nn.Linear(2, 1)
        layer.eval()
        adam = jt.optim.Adam(layer.parameters(), 1e-3)
        return self._results(layer.weight, lambda: adam.step(layer(jt.ones((1, 2))).sum()))

    def ours(self, jt):
        from utils.optim import Adam

        layer = jt.nn.Linear(2, 1)
        layer.eval()
        return {self.quantity: _try(lambda: Adam(layer.parameters()))}

    def pytorch(self, torch):
        layer = torch.nn.Linear(2, 1)
        layer.eval()
        adam = torch.optim.Adam(layer.parameters(), 1e-3)
        layer(torch.ones(1, 2)).sum().backward()
        return self._results(layer.weight, adam.step)


class NotANumber:
    """What becomes of a NaN, which should be seen in the loss."""

    name = "NaN"

    def _results(self, **layers):
        x = np.full((1, 1, 4, 4), np.nan, np.float32)
        return {f"{name} of NaN": f"{layer(x).ravel()[0]:.0e}" for name, layer in layers.items()}

    def truth(self):
        return {f"{name} of NaN": "nan" for name in ("sigmoid", "ReLU", "max-pool")}

    def stock(self, jt):
        return self._results(**{
            "sigmoid": lambda x: jt.sigmoid(jt.array(x)).numpy(),
            "ReLU": lambda x: jt.nn.relu(jt.array(x)).numpy(),
            "max-pool": lambda x: jt.nn.MaxPool2d(2)(jt.array(x)).numpy(),
        })

    def ours(self, jt):
        from model.ops.batch_norm import RELU, activate
        from model.ops.pool import max_pool2x2

        return self._results(**{
            "sigmoid": lambda x: jt.sigmoid(jt.array(x)).numpy(),
            "ReLU": lambda x: activate(jt.array(x), RELU).numpy(),
            "max-pool": lambda x: max_pool2x2(jt.array(x)).numpy(),
        })

    def pytorch(self, torch):
        return self._results(**{
            "sigmoid": lambda x: torch.sigmoid(torch.tensor(x)).numpy(),
            "ReLU": lambda x: torch.relu(torch.tensor(x)).numpy(),
            "max-pool": lambda x: torch.nn.MaxPool2d(2)(torch.tensor(x)).numpy(),
        })


class LoadStateDict:
    """Weights that do not fit the network."""

    name = "load_state_dict"

    def _results(self, load):
        """From a function that loads a dict into a 3×3 convolution."""
        weight, bias = np.zeros((1, 1, 3, 3), np.float32), np.zeros(1, np.float32)
        cases = {
            "a missing entry": {"weight": weight},
            "an unknown entry": {"weight": weight, "bias": bias, "scale": bias},
            "an entry of another shape": {"weight": weight[:, :, 1:], "bias": bias},
        }
        return {name: _try(lambda state=state: load(state)) for name, state in cases.items()}

    def truth(self):
        return dict.fromkeys(self._results(lambda state: None), "refused")

    def stock(self, jt):
        return self._results(lambda state: jt.nn.Conv2d(1, 1, 3).load_state_dict(state))

    def ours(self, jt):
        from utils.checkpoint.weights import load_weights

        return self._results(lambda state: load_weights(jt.nn.Conv2d(1, 1, 3), state))

    def pytorch(self, torch):
        def load(state):
            state = {name: torch.tensor(array) for name, array in state.items()}
            torch.nn.Conv2d(1, 1, 3).load_state_dict(state)

        return self._results(load)


DIFFERENCES = [
    BatchNorm("θ, 50 batches of 8×16×1×1", (8, 16, 1, 1), batches=50),
    BatchNorm("8×16×256×256", (8, 16, 256, 256)),
    BatchNorm("8×16×256×256, values 1 ± 0.1", (8, 16, 256, 256), 1.0, 0.1),
    BatchNorm("8×16×16×16, values 10 ± 0.1", (8, 16, 16, 16), 10.0, 0.1),
    BiasBeforeNorm(), GlobalAverage(), BiasGradient(), Loss(), AdamEpsilon(), Schedule(), Shuffle(),
    InitialWeights(), _bilinear(32, 64), _bilinear(33, 65), _bilinear(64, 32), _nearest(),
    _max_pool(), SmallestPool(), _leaky(), _convolution(9, 2), Dropout(), AdamInEvaluation(),
    NotANumber(), LoadStateDict(),
]


if __name__ == "__main__":
    cli.run(main)
