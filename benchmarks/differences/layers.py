"""Layers without weights, and a convolution with given ones."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.differences.entry import Entry, Results, normal

Shaped = Callable[[tuple[int, ...]], np.ndarray]  # makes an array of a shape
Reference = Callable[[np.ndarray, Shaped], tuple[np.ndarray, np.ndarray]]
Function = Callable[[ModuleType, Any], Any]


class Layer(Entry):
    """A layer without weights: its output, and the gradient of its input.

    Args:
        name: of the difference.
        x: the input.
        truth: NumPy function x, dy → y, dx; it is given dy as a function of the shape.
        stock, ours: functions of Jittor, (jt, x) → y.
        pytorch: the same of PyTorch, (torch, x) → y.
    """

    def __init__(
        self, name: str, x: np.ndarray, truth: Reference, stock: Function, ours: Function,
        pytorch: Function,
    ):
        self.name, self.x = name, x
        self._truth, self._stock, self._ours, self._pytorch = truth, stock, ours, pytorch

    @staticmethod
    def _dy(shape):
        return normal(*shape, seed=9)

    @staticmethod
    def _results(y, dx):
        return {"output": y, "input gradient": dx}

    def truth(self) -> Results:
        return self._results(*self._truth(self.x.astype(np.float64), self._dy))

    def stock(self, jt: ModuleType) -> Results:
        return self._jittor(jt, self._stock)

    def ours(self, jt: ModuleType) -> Results:
        return self._jittor(jt, self._ours)

    def _jittor(self, jt, layer):
        x = jt.array(self.x)
        y = layer(jt, x)
        dx = jt.grad((y * jt.array(self._dy(y.shape))).sum(), x)
        jt.sync_all(True)
        return self._results(y.numpy(), dx.numpy())

    def pytorch(self, torch: ModuleType) -> Results:
        x = torch.tensor(self.x, requires_grad=True)
        y = self._pytorch(torch, x)
        y.backward(torch.tensor(self._dy(y.shape)))
        return self._results(y.detach().numpy(), x.grad.numpy())


def bilinear(size: int, new_size: int) -> Layer:
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
        f"bilinear resize, {size} to {new_size}", normal(2, 3, size, size), truth,
        lambda jt, x: jt.nn.interpolate(x, size=(new_size, new_size), mode="bilinear"),
        ours,
        lambda torch, x: torch.nn.functional.interpolate(x, (new_size, new_size), mode="bilinear"),
    )


def nearest() -> Layer:
    """The entry of the UNet's doubling."""

    def truth(x, dy):
        y = x.repeat(2, 2).repeat(2, 3)
        return y, _blocks(dy(y.shape)).sum((3, 5), dtype=np.float64)

    def ours(jt, x):
        from model.ops.resize import upsample_nearest2x

        return upsample_nearest2x(x)

    return Layer(
        "nearest resize, 21 to 42", normal(2, 3, 21, 21), truth,
        lambda jt, x: jt.nn.Upsample(scale_factor=2)(x), ours,
        lambda torch, x: torch.nn.Upsample(scale_factor=2)(x),
    )


def _blocks(x):
    """N×C×2H×2W as N×C×H×2×W×2."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2)


def max_pool() -> Layer:
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
        "max-pool, ties", np.maximum(normal(2, 3, 32, 32).round(), 0), truth,
        lambda jt, x: jt.nn.MaxPool2d(2)(x), ours, lambda torch, x: torch.nn.MaxPool2d(2)(x),
    )


def leaky_relu() -> Layer:
    """The entry of the contrast branches' activation, zeros included."""

    def truth(x, dy):
        slopes = np.where(x > 0, 1, np.float32(0.1))
        return x * slopes, dy(x.shape) * slopes

    def ours(jt, x):
        from model.ops.batch_norm import LEAKY, activate

        return activate(x, LEAKY)

    return Layer(
        "LeakyReLU(0.1)", np.maximum(normal(2, 3, 32, 32), -1).round(1), truth,
        lambda jt, x: jt.nn.LeakyReLU(0.1)(x), ours,
        lambda torch, x: torch.nn.LeakyReLU(0.1)(x),
    )


def convolution(kernel_size: int, dilation: int) -> Layer:
    """The entry of a convolution, in the library that each framework calls."""
    weight = normal(16, 16, kernel_size, kernel_size, seed=1) / np.float32(4 * kernel_size)
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
        f"convolution {kernel_size}×{kernel_size}, dilation {dilation}", normal(2, 16, 32, 32),
        truth,
        lambda jt, x: jt.nn.conv2d(x, jt.array(weight), None, 1, half, dilation), ours,
        lambda torch, x: torch.nn.functional.conv2d(
            x, torch.tensor(weight), None, 1, half, dilation),
    )


class SmallestPool(Entry):
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

    def truth(self) -> Results:
        return self._results(lambda: [1, 0, 0, 0])

    def stock(self, jt: ModuleType) -> Results:
        return self._jittor(jt, lambda x: jt.nn.MaxPool2d(2)(x))

    def ours(self, jt: ModuleType) -> Results:
        from model.ops.pool import max_pool2x2

        return self._jittor(jt, max_pool2x2)

    def _jittor(self, jt, pool):
        x = jt.ones((1, 1, 2, 2))
        return self._results(lambda: jt.grad(pool(x).sum(), x).numpy())

    def pytorch(self, torch: ModuleType) -> Results:
        x = torch.ones(1, 1, 2, 2, requires_grad=True)
        torch.nn.MaxPool2d(2)(x).sum().backward()
        return self._results(x.grad.numpy)
