"""One epoch of training and one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tqdm import tqdm

from evaluation import THRESHOLD, Evaluator
from model import soft_iou_loss
from utils import runtime
from utils.checkpoint.weights import all_finite
from utils.data.augment import Augmentation
from utils.data.datasets import (
    Split,
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

# On a GPU. Reading a loss waits until the GPU has nothing left to do, and the GPU then idles while
# the next step is prepared. So the losses of several steps are read at once.
STEPS_UNDER_WAY = 8


class Interrupted(Exception):
    """The run was asked to stop; what is done so far is complete and can be saved."""


def train_one_epoch(
    net: runtime.jt.Module,
    optimizer: Adam,
    split: Split,
    recipe: Recipe,
    epoch: int,
    losses: list[float],
    check_stop: Callable[[], None],
) -> None:
    """Trains for one epoch, or for the rest of one.

    On a GPU several steps are under way at once, and their losses are read together.

    Args:
        net: the network.
        optimizer: of its parameters.
        split: the training images.
        recipe: of the run.
        epoch: counted from 1; with the seed it determines order and dropout.
        losses: the losses of the batches already done; each further one is appended.
        check_stop: called when all steps so far are complete and their losses are in `losses`;
            may raise Interrupted.

    Raises:
        UserError: a loss or a gradient is not finite.
    """
    jt = runtime.jt
    net.train()
    total = num_train_batches(split, recipe.batch_size)
    bar = tqdm(total=total, initial=len(losses), unit="batch", leave=False, disable=None,
               desc=f"epoch {epoch}/{recipe.epochs}")
    augmentation = Augmentation(*(getattr(recipe, name) for name in Augmentation._fields))
    batches = train_batches(split, recipe.batch_size, recipe.image_size, recipe.seed, epoch,
                            start=len(losses), soft=recipe.soft_masks, part=ranks.part,
                            augmentation=augmentation)
    pending: list[tuple[Sequence[str], runtime.jt.Var]] = []  # images and loss of steps under way
    most = _most_under_way()
    with bar:
        for step, (names, x, y) in enumerate(batches, len(losses) + 1):
            # Dropout as a function of seed, epoch and step: nothing to save for resuming.
            jt.set_seed((recipe.seed * 1_000_003 + epoch * 10_007 + step - 1) % 2**31)
            with ranks.sharing(len(names)):
                loss = soft_iou_loss(net(jt.array(x)), jt.array(y))
                optimizer.step(loss)
            jt.sync_all()  # begins to compute, and waits for the CPU but not for a GPU
            pending.append((names, loss))
            if len(pending) < most and step < total:
                continue
            _read_losses(net, pending, losses, epoch, most == 1 or step == total)
            bar.update(len(pending))
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}", lr=f"{optimizer.lr:g}")
            pending.clear()
            check_stop()


def _most_under_way():
    return STEPS_UNDER_WAY if runtime.jt.flags.use_cuda else 1


def _read_losses(net, pending, losses, epoch, weights_too):
    """Waits for the steps under way and appends their losses.

    Args:
        weights_too: whether to look at the weights as well. A loss is from before its step, so the
            last loss does not tell what the last step did. It does tell of all steps before:
            weights that are not finite make the next loss NaN.
    """
    runtime.jt.sync_all(True)
    for names, loss in pending:
        value = loss.item()
        last = loss is pending[-1][1]
        if not math.isfinite(value) or (last and weights_too and not all_finite(net)):
            raise UserError(
                f"the loss or its gradient is not finite in epoch {epoch}, batch "
                f"{len(losses) + 1}, images {', '.join(names)}: look at them, or try a lower "
                "--lr; what was saved is from before"
            )
        losses.append(value)


def evaluate(
    net: runtime.jt.Module,
    split: Split,
    batch_size: int,
    threshold: float = THRESHOLD,
    check_stop: Callable[[], None] = lambda: None,
) -> Evaluator:
    """Scores the network on a split.

    Args:
        check_stop: called after every batch; may raise Interrupted.

    Returns:
        The `evaluation.Evaluator`, fed with every image.
    """
    net.eval()
    evaluator, by_batch = Evaluator(threshold), []
    with tqdm(total=len(split), unit="image", leave=False, disable=None, desc="evaluating") as bar:
        for indices, x in test_batches(split, batch_size, ranks.turn()):
            by_batch.append([])
            for index, probability in zip(indices, predict(net, x)):
                try:
                    by_batch[-1].append(evaluator.update(probability, split.masks[index]))
                except ValueError as error:  # the weights are not finite any more
                    raise UserError(f"{split.names[index]}: {error}; try a lower --lr") from None
            bar.update(len(indices))
            check_stop()
    # In the last round not all ranks may have had a batch, but all must ask whether to stop.
    for _ in range(len(by_batch), -(-num_test_batches(split, batch_size) // ranks.size())):
        check_stop()
    evaluator.images = ranks.interleave(by_batch)
    return evaluator
