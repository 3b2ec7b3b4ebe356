"""What training does to the weights: steps, rates, the order of the images."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.differences.entry import Entry, Results, attempt
from utils.data.datasets import Split, train_batches
from utils.optim import Adam, MultiStepLR


class AdamEpsilon(Entry):
    """Steps of Adam down constant gradients of some size."""

    name = "Adam's ε"
    steps, sizes = 10, (1e-4, 1e-6, 1e-8)

    def _results(self, update):
        """From a function (gradient, number of steps, learning rate) → what the parameter moved."""
        return {f"{self.steps} steps down a gradient of {size:g}": update(size)
                for size in self.sizes}

    def truth(self) -> Results:
        # A constant gradient is its own moving average, and its square that of the squares.
        return self._results(lambda size: -1e-3 * self.steps * size / (size + 1e-8))

    def stock(self, jt: ModuleType) -> Results:
        return self._jittor(jt, jt.optim.Adam)

    def ours(self, jt: ModuleType) -> Results:
        return self._jittor(jt, Adam)

    def _jittor(self, jt, optimiser):
        def update(size):
            p = jt.zeros(1)
            adam = optimiser([p], lr=1e-3)
            for _ in range(self.steps):
                adam.step((p * size).sum())
            return p.numpy()

        return self._results(update)

    def pytorch(self, torch: ModuleType) -> Results:
        def update(size):
            p = torch.zeros(1, requires_grad=True)
            adam = torch.optim.Adam([p], lr=1e-3)
            for _ in range(self.steps):
                adam.zero_grad()
                (p * size).sum().backward()
                adam.step()
            return p.detach().numpy()

        return self._results(update)


class Schedule(Entry):
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

    def truth(self) -> Results:
        return self._text([5e-4, 5e-4, 5e-5, 5e-5], True)

    def stock(self, jt: ModuleType) -> Results:
        from jittor import lr_scheduler

        adam = jt.optim.Adam([jt.zeros(1)], lr=5e-4)
        return self._results(adam, lr_scheduler.MultiStepLR(adam, [200, 300]), lambda adam: adam.lr)

    def ours(self, jt: ModuleType) -> Results:
        adam = Adam([jt.zeros(1)], lr=5e-4)
        return self._results(adam, MultiStepLR(adam, [200, 300]), lambda adam: adam.lr)

    def pytorch(self, torch: ModuleType) -> Results:
        adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=5e-4)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(adam, [200, 300])
        adam.step()  # or it warns
        return self._results(adam, scheduler, lambda adam: adam.param_groups[0]["lr"])


class Shuffle(Entry):
    """The order of the 663 training images in the first epoch."""

    name = "shuffling"
    count = 663

    def _results(self, order):
        """From a function seed → order."""
        a, b = np.asarray(order(1)), np.asarray(order(2))
        return {"images in the same place with seeds 1 and 2": f"{(a == b).sum()} of {self.count}"}

    def truth(self) -> Results:
        rng = np.random.default_rng(0)
        return self._results(lambda seed: rng.permutation(self.count))

    def stock(self, jt: ModuleType) -> Results:
        class Indices(jt.dataset.Dataset):
            def __getitem__(self, index):
                return index

        def order(seed):
            jt.set_global_seed(seed)
            whole = {"total_len": self.count, "batch_size": self.count, "shuffle": True}
            return next(iter(Indices().set_attrs(**whole))).numpy()

        return self._results(order)

    def ours(self, jt: ModuleType) -> Results:
        dots = [np.zeros((2, 2), np.uint8)] * self.count
        split = Split("", "train", Path(), list(range(self.count)), dots, dots)
        return self._results(lambda seed: next(train_batches(split, self.count, 2, seed, 1))[0])

    def pytorch(self, torch: ModuleType) -> Results:
        def order(seed):
            torch.manual_seed(seed)
            return list(torch.utils.data.RandomSampler(range(self.count)))

        return self._results(order)


class AdamInEvaluation(Entry):
    """Whether an Adam made while the network is in evaluation mode moves its weights."""

    name = "eval()"
    quantity = "an Adam made after it trains"

    def _results(self, weight, train):
        before = weight.detach().numpy().copy()
        train()
        return {self.quantity: "no" if (weight.detach().numpy() == before).all() else "yes"}

    def truth(self) -> Results:
        return {self.quantity: "yes"}

    def stock(self, jt: ModuleType) -> Results:
        layer = jt.nn.Linear(2, 1)
        layer.eval()
        adam = jt.optim.Adam(layer.parameters(), 1e-3)
        return self._results(layer.weight, lambda: adam.step(layer(jt.ones((1, 2))).sum()))

    def ours(self, jt: ModuleType) -> Results:
        layer = jt.nn.Linear(2, 1)
        layer.eval()
        return {self.quantity: attempt(lambda: Adam(layer.parameters()))}

    def pytorch(self, torch: ModuleType) -> Results:
        layer = torch.nn.Linear(2, 1)
        layer.eval()
        adam = torch.optim.Adam(layer.parameters(), 1e-3)
        layer(torch.ones(1, 2)).sum().backward()
        return self._results(layer.weight, adam.step)
