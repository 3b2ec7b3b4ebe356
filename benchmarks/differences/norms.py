"""Batch norm, and the bias that it cancels."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from benchmarks.differences.entry import Entry, Results, normal

EPS, MOMENTUM = 1e-5, 0.1  # of batch norm, in both frameworks


class BatchNorm(Entry):
    """Some batches in training mode, then the last one in evaluation mode.

    Args:
        where: what the shape stands for.
        shape: N×C×H×W.
        mean, std: of the input, and of the running statistics at first.
        batches: how often these are updated.
    """

    def __init__(
        self, where: str, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0,
        batches: int = 1,
    ):
        self.name = f"batch norm, {where}"
        self.shape, self.mean, self.std, self.batches = shape, mean, std, batches

    def inputs(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The batches, and a gradient of the last output."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        batches = [mean + std * normal(*self.shape, seed=i) for i in range(self.batches)]
        return batches, normal(*self.shape, seed=99)

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Running mean and variance before the first batch."""
        ones = np.ones(self.shape[1], np.float32)
        return ones * np.float32(self.mean), ones * np.float32(self.std**2)

    def truth(self) -> Results:
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

    def stock(self, jt: ModuleType) -> Results:
        return self._jittor(jt, jt.nn.BatchNorm(self.shape[1]))

    def ours(self, jt: ModuleType) -> Results:
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

    def pytorch(self, torch: ModuleType) -> Results:
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


class BiasBeforeNorm(Entry):
    """A convolution's bias, which batch norm cancels: its gradient is zero."""

    name = "bias before a batch norm"
    shape = 8, 16, 64, 64

    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, the convolution's weight, and a gradient of the output."""
        return normal(*self.shape), normal(16, 16, 1, 1, seed=1), normal(*self.shape, seed=2)

    def truth(self) -> Results:
        return {"its gradient": np.zeros(16)}

    def stock(self, jt: ModuleType) -> Results:
        norm = jt.nn.BatchNorm(16)
        return self._jittor(jt, lambda y, bias: norm(y + bias.reshape(1, -1, 1, 1)))

    def ours(self, jt: ModuleType) -> Results:
        from model.ops.batch_norm import LINEAR, BatchNorm

        return self._jittor(jt, BatchNorm(16, LINEAR))

    def _jittor(self, jt, norm):
        x, weight, dy = map(jt.array, self.inputs())
        bias = jt.zeros(16)
        gradient = jt.grad((norm(jt.nn.conv2d(x, weight), bias) * dy).sum(), bias)
        return {"its gradient": gradient.numpy()}

    def pytorch(self, torch: ModuleType) -> Results:
        x, weight, dy = map(torch.tensor, self.inputs())
        bias = torch.zeros(16, requires_grad=True)
        y = torch.nn.functional.conv2d(x, weight, bias)
        torch.nn.functional.batch_norm(y, None, None, training=True).backward(dy)
        return {"its gradient": bias.grad.numpy()}
