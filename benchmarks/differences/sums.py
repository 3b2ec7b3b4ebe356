"""Sums over many float32 values, which a framework may add up one after another."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.differences.entry import Entry, Results, normal


class GlobalAverage(Entry):
    """The pooling of θ."""

    name = "float32 sums"
    shape = 8, 16, 256, 256
    quantity = "mean of 256×256 values of 0 to 1"

    def inputs(self) -> np.ndarray:
        """x, from 0 to 1."""
        return np.random.default_rng(0).random(self.shape, np.float32)

    def truth(self) -> Results:
        return {self.quantity: self.inputs().mean((2, 3), keepdims=True, dtype=np.float64)}

    def stock(self, jt: ModuleType) -> Results:
        return {self.quantity: jt.array(self.inputs()).mean((2, 3), keepdims=True).numpy()}

    def ours(self, jt: ModuleType) -> Results:
        from model.ops.elementwise import global_average

        return {self.quantity: global_average(jt.array(self.inputs())).numpy()}

    def pytorch(self, torch: ModuleType) -> Results:
        pooled = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(self.inputs()), 1)
        return {self.quantity: pooled.numpy()}


class BiasGradient(Entry):
    """The bias of a convolution that no batch norm follows: heads, and the 1-D kernels."""

    name = "float32 sums"
    shape = 8, 4, 256, 256
    quantity = "gradient of a convolution's bias, 8×4×256×256"

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """x, and a gradient of the output."""
        return normal(8, 1, 256, 256), normal(*self.shape, seed=1) + 1

    def truth(self) -> Results:
        return {self.quantity: self.inputs()[1].sum((0, 2, 3), dtype=np.float64)}

    def stock(self, jt: ModuleType) -> Results:
        return self._jittor(jt, jt.nn.Conv2d)

    def ours(self, jt: ModuleType) -> Results:
        from model.ops.conv import Conv2d

        return self._jittor(jt, Conv2d)

    def _jittor(self, jt, layer):
        x, dy = map(jt.array, self.inputs())
        conv = layer(1, self.shape[1], 1)
        return {self.quantity: jt.grad((conv(x) * dy).sum(), conv.bias).numpy()}

    def pytorch(self, torch: ModuleType) -> Results:
        x, dy = map(torch.tensor, self.inputs())
        conv = torch.nn.Conv2d(1, self.shape[1], 1)
        conv(x).backward(dy)
        return {self.quantity: conv.bias.grad.numpy()}


class Loss(Entry):
    """SoftIoU over a whole batch, its sums over half a million values."""

    name = "float32 sums"
    shape = 8, 1, 256, 256

    def inputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and mask."""
        rng = np.random.default_rng(0)
        return rng.random(self.shape, np.float32), np.float32(rng.random(self.shape) > 0.999)

    @staticmethod
    def formula(p: Any, g: Any) -> Any:
        """The loss, on arrays of any side."""
        intersection = (p * g).sum()
        return 1 - (intersection + 1) / (p.sum() + g.sum() - intersection + 1)

    def truth(self) -> Results:
        p, g = (array.astype(np.float64) for array in self.inputs())
        union = p.sum() + g.sum() - (p * g).sum() + 1
        gradient = -g / union + (1 - g) * ((p * g).sum() + 1) / union**2
        return self._results(self.formula(p, g), gradient)

    @staticmethod
    def _results(loss, gradient):
        # 1 − loss is what training raises, and what the rounding of a loss near 1 swallows.
        return {"1 − SoftIoU loss, 8×1×256×256": 1 - np.float64(loss), "its gradient": gradient}

    def stock(self, jt: ModuleType) -> Results:
        return self._jittor(jt, self.formula)

    def ours(self, jt: ModuleType) -> Results:
        from model import soft_iou_loss

        return self._jittor(jt, soft_iou_loss)

    def _jittor(self, jt, formula):
        p, g = map(jt.array, self.inputs())
        loss = formula(p, g)
        gradient = jt.grad(loss, p)
        jt.sync_all(True)
        return self._results(loss.item(), gradient.numpy())

    def pytorch(self, torch: ModuleType) -> Results:
        p, g = map(torch.tensor, self.inputs())
        loss = self.formula(p.requires_grad_(), g)
        loss.backward()
        return self._results(loss.item(), p.grad.numpy())
