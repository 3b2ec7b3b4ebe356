"""The steps of one epoch of training, and of one evaluation, as generators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm

from evaluation import THRESHOLD, Evaluator
from evaluation.evaluator import ImageCounts
from model import soft_iou_loss
from utils import runtime
from utils.checkpoint.weights import all_finite
from utils.datasets import (
    ImageList,
    num_test_batches,
    num_train_batches,
    test_batches,
    train_batches,
)
from utils.errors import UserError
from utils.optim import Adam
from utils.predict.maps import predict
from utils.recipe import Recipe
from utils.runtime import ranks
from utils.training.sharing import sharing

# On a GPU. Reading a loss waits until the GPU has nothing left to do, and the GPU then idles while
# the next step is prepared. So the losses of several steps are read together.
STEPS_AT_ONCE = 8


def training_steps(
    net: runtime.jt.Module,
    optimizer: Adam,
    split: ImageList,
    recipe: Recipe,
    epoch: int,
    losses: Sequence[float] = (),
    at_once: int | None = None,
) -> Iterator[list[float]]:
    """Takes the steps of one epoch, or of the rest of it, and yields the losses of finished steps.

    At each yield, network and optimiser have taken exactly the steps whose losses were yielded.

    Args:
        epoch: counted from 1; with the seed it determines order and dropout.
        losses: losses of the steps already taken in this epoch.
        at_once: number of steps whose losses are read together; default 1 on the CPU, more on a
            GPU.

    Raises:
        UserError: a loss or a gradient is not finite.
    """
    jt = runtime.jt
    net.train()
    at_once = at_once or (STEPS_AT_ONCE if runtime.on_gpu() else 1)
    total = num_train_batches(split, recipe)
    batches = train_batches(split, recipe, epoch, len(losses), ranks.part)
    losses = list(losses)
    pending: list[tuple[Sequence[str], runtime.jt.Var]] = []  # image names and loss of each step
    with tqdm(total=total, initial=len(losses), unit="batch", leave=False, disable=None,
              desc=f"epoch {epoch}/{recipe.epochs}") as bar:
        for step, (names, x, y) in enumerate(batches, len(losses) + 1):
            # Dropout is a function of seed, epoch and step: nothing to save for resuming.
            jt.set_seed((recipe.seed * 1_000_003 + epoch * 10_007 + step - 1) % 2**31)
            with sharing(len(names)):
                loss = soft_iou_loss(net(jt.array(x)), jt.array(y))
                optimizer.step(loss)
            jt.sync_all()  # begins to compute, and waits for the CPU but not for a GPU
            pending.append((names, loss))
            if len(pending) < at_once and step < total:
                continue
            jt.sync_all(True)
            values = [loss.item() for _, loss in pending]
            # A loss is computed before its step, so it cannot show damage by this step. After the
            # last step, and if each step is checked, the weights are checked as well.
            finite = [math.isfinite(value) for value in values]
            if at_once == 1 or step == total:
                finite[-1] = finite[-1] and all_finite(net)
            if not all(finite):
                bad = finite.index(False)
                raise UserError(
                    f"the loss or its gradient is not finite in epoch {epoch}, batch "
                    f"{len(losses) + bad + 1}, images {', '.join(pending[bad][0])}: look at them, "
                    "or try a lower --lr; the last checkpoint is from an earlier step")
            losses += values
            bar.update(len(values))
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}", lr=f"{optimizer.lr:g}")
            pending.clear()
            yield values


def evaluation_steps(
    net: runtime.jt.Module, split: ImageList, batch_size: int, threshold: float = THRESHOLD
) -> Iterator[list[ImageCounts]]:
    """Scores the test list batch by batch; yields the counts of each batch's images.

    Under mpirun each rank scores some of the batches, and all ranks yield equally often.

    Raises:
        UserError: a prediction is not finite.
    """
    net.eval()
    evaluator = Evaluator(threshold)
    rounds = -(-num_test_batches(split, batch_size) // ranks.size())
    with tqdm(total=len(split), unit="image", leave=False, disable=None, desc="evaluating") as bar:
        for indices, x in test_batches(split, batch_size, ranks.subset()):
            counts = []
            for index, probability in zip(indices, predict(net, x)):
                try:
                    counts.append(evaluator.update(probability, split.masks[index]))
                except ValueError as error:
                    raise UserError(f"{split.names[index]}: {error}; try a lower --lr") from None
            bar.update(len(indices))
            rounds -= 1
            yield counts
    for _ in range(rounds):
        yield []


def merge_counts(
    counts: Iterable[Sequence[ImageCounts]], threshold: float = THRESHOLD
) -> Evaluator:
    """The evaluator with the counts of all `evaluation_steps`, of all ranks."""
    evaluator = Evaluator(threshold)
    evaluator.images = ranks.interleave(list(counts))
    return evaluator
