"""Adam and MultiStepLR with PyTorch's semantics (torch.optim.Adam, lr_scheduler.MultiStepLR).

Jittor's Adam adds ε before bias correction, and its MultiStepLR lowers the rate one epoch late and
has no state to save.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from utils import runtime

BETAS, EPS = (0.9, 0.999), 1e-8  # PyTorch's defaults


class Adam:
    """Adam (Kingma & Ba, 2015): p ← p − lr/(1−β1ᵗ) · m / (√v/√(1−β2ᵗ) + ε).

    Args:
        parameters: Jittor variables; those with stopped gradients (running statistics) are left
            out.
        lr: the learning rate; an attribute that may be set between steps.

    Raises:
        ValueError: no parameter is left; Jittor's `eval()` stops the gradients of a whole network.
    """

    def __init__(self, parameters: Iterable[runtime.jt.Var], lr: float = 1e-3):
        self.parameters = [p for p in parameters if not p.is_stop_grad()]
        if not self.parameters:
            raise ValueError("nothing to optimise: call train() on the network before")
        self.lr, self.steps = lr, 0
        self.moments = [(_zeros_like(p), _zeros_like(p)) for p in self.parameters]

    def step(self, loss: runtime.jt.Var) -> None:
        """Takes one step down the gradient of `loss`, a scalar."""
        jt = runtime.jt
        self.steps += 1
        beta1, beta2 = BETAS
        step_size = self.lr / (1 - beta1**self.steps)
        correction = math.sqrt(1 - beta2**self.steps)
        from model.ops.native import on_cuda  # starts Jittor
        from model.ops.sharing import current_batch

        gradients = current_batch().sums(jt.grad(loss, self.parameters))
        if on_cuda():
            self._step_on_gpu(gradients, step_size, correction)
            return
        for parameter, gradient, (m, v) in zip(self.parameters, gradients, self.moments):
            m.update(m + (gradient - m) * (1 - beta1))
            v.update(v * beta2 + gradient * gradient * (1 - beta2))
            parameter.update(parameter - m / (jt.sqrt(v) / correction + EPS) * step_size)

    def _step_on_gpu(self, gradients, step_size, correction):
        from model.ops.adam import updated

        new = updated(self.parameters, gradients, self.moments, BETAS, EPS, step_size, correction)
        for parameter, (m, v), (new_p, new_m, new_v) in zip(self.parameters, self.moments, new):
            parameter.update(new_p)
            m.update(new_m)
            v.update(new_v)

    def state_dict(self) -> dict[str, np.ndarray]:
        """NumPy copies: `steps`, `lr`, and per parameter, in order, `m.<i>` and `v.<i>`."""
        state = {"steps": np.array(self.steps), "lr": np.array(self.lr)}
        for i, (m, v) in enumerate(self.moments):
            state[f"m.{i}"], state[f"v.{i}"] = m.numpy(), v.numpy()
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes over what `state_dict` returned.

        Raises:
            ValueError: entries are missing or of other shapes than the parameters.
        """
        for i, pair in enumerate(self.moments):
            for letter, moment in zip("mv", pair):
                array = state.get(f"{letter}.{i}")
                if array is None or tuple(array.shape) != tuple(moment.shape):
                    raise ValueError(f"optimiser state {letter}.{i} does not fit the network")
                moment.update(runtime.jt.array(array))
        self.steps, self.lr = int(state["steps"]), float(state["lr"])


def _zeros_like(parameter: runtime.jt.Var) -> runtime.jt.Var:
    return runtime.jt.array(np.zeros(parameter.shape, np.float32)).stop_grad()


class MultiStepLR:
    """Multiplies the optimiser's rate by `gamma` after each of the epochs `milestones`.

    Call `step()` once after each epoch. With milestones (200, 300), epochs 1 to 200 have the first
    rate.
    """

    def __init__(self, optimizer: Adam, milestones: Iterable[int], gamma: float = 0.1):
        self.optimizer, self.milestones, self.gamma = optimizer, sorted(milestones), gamma
        self.base_lr = optimizer.lr
        self.last_epoch = 0

    def step(self) -> None:
        """Counts one epoch as done and sets the rate for the next."""
        self.last_epoch += 1
        passed = sum(milestone <= self.last_epoch for milestone in self.milestones)
        self.optimizer.lr = self.base_lr * self.gamma**passed

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, plain numbers."""
        return {
            "last_epoch": self.last_epoch, "base_lr": self.base_lr,
            "milestones": self.milestones, "gamma": self.gamma,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self.last_epoch, self.base_lr = state["last_epoch"], state["base_lr"]
        self.milestones, self.gamma = list(state["milestones"]), state["gamma"]
