"""What a framework does unasked, or does not refuse."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from benchmarks.differences.entry import Entry, Results, attempt, normal
from utils.checkpoint.weights import load_weights


class InitialWeights(Entry):
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

    def truth(self) -> Results:
        rng, bound = np.random.default_rng(0), (9 * self.channels[0]) ** -0.5
        return self._results(rng.uniform(-bound, bound, 100_000), rng.uniform(-bound, bound, 128))

    def stock(self, jt: ModuleType) -> Results:
        conv = jt.nn.Conv2d(*self.channels, 3)
        return self._results(conv.weight.numpy(), conv.bias.numpy())

    def ours(self, jt: ModuleType) -> Results:
        from model.ops.conv import Conv2d

        conv = Conv2d(*self.channels, 3)
        return self._results(conv.weight.numpy(), conv.bias.numpy())

    def pytorch(self, torch: ModuleType) -> Results:
        conv = torch.nn.Conv2d(*self.channels, 3)
        return self._results(conv.weight.detach().numpy(), conv.bias.detach().numpy())


class Dropout(Entry):
    """Whether the FPN's dropout works in a module just made, before any call of train()."""

    name = "dropout"

    def _results(self, layer):
        """From a function that gives random values when dropout is on."""
        return {"at work in a new module": "no" if np.array_equal(layer(), layer()) else "yes"}

    def truth(self) -> Results:
        return {"at work in a new module": "yes"}

    def stock(self, jt: ModuleType) -> Results:
        layer = jt.nn.Dropout(0.1)
        return self._results(lambda: layer(jt.ones((64, 64))).numpy())

    def ours(self, jt: ModuleType) -> Results:
        from model.fpn import DROPOUT, Head

        layer, x = Head(16, DROPOUT), jt.array(normal(2, 16, 16, 16))
        return self._results(lambda: layer(x).numpy())

    def pytorch(self, torch: ModuleType) -> Results:
        layer = torch.nn.Dropout(0.1)
        return self._results(lambda: layer(torch.ones(64, 64)).numpy())


class NotANumber(Entry):
    """What becomes of a NaN, which should be seen in the loss."""

    name = "NaN"

    def _results(self, layers):
        x = np.full((1, 1, 4, 4), np.nan, np.float32)
        return {f"{name} of NaN": f"{layer(x).ravel()[0]:.0e}" for name, layer in layers.items()}

    def truth(self) -> Results:
        return {f"{name} of NaN": "nan" for name in ("sigmoid", "ReLU", "max-pool")}

    def stock(self, jt: ModuleType) -> Results:
        return self._results({
            "sigmoid": lambda x: jt.sigmoid(jt.array(x)).numpy(),
            "ReLU": lambda x: jt.nn.relu(jt.array(x)).numpy(),
            "max-pool": lambda x: jt.nn.MaxPool2d(2)(jt.array(x)).numpy(),
        })

    def ours(self, jt: ModuleType) -> Results:
        from model.ops.batch_norm import RELU, activate
        from model.ops.elementwise import probability
        from model.ops.pool import max_pool2x2

        return self._results({
            "sigmoid": lambda x: probability(jt.array(x)).numpy(),
            "ReLU": lambda x: activate(jt.array(x), RELU).numpy(),
            "max-pool": lambda x: max_pool2x2(jt.array(x)).numpy(),
        })

    def pytorch(self, torch: ModuleType) -> Results:
        return self._results({
            "sigmoid": lambda x: torch.sigmoid(torch.tensor(x)).numpy(),
            "ReLU": lambda x: torch.relu(torch.tensor(x)).numpy(),
            "max-pool": lambda x: torch.nn.MaxPool2d(2)(torch.tensor(x)).numpy(),
        })


class LoadStateDict(Entry):
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
        return {name: attempt(lambda state=state: load(state)) for name, state in cases.items()}

    def truth(self) -> Results:
        return dict.fromkeys(self._results(lambda state: None), "refused")

    def stock(self, jt: ModuleType) -> Results:
        return self._results(lambda state: jt.nn.Conv2d(1, 1, 3).load_state_dict(state))

    def ours(self, jt: ModuleType) -> Results:
        return self._results(lambda state: load_weights(jt.nn.Conv2d(1, 1, 3), state))

    def pytorch(self, torch: ModuleType) -> Results:
        def load(state):
            state = {name: torch.tensor(array) for name, array in state.items()}
            torch.nn.Conv2d(1, 1, 3).load_state_dict(state)

        return self._results(load)
