"""What each rank does in tests/test_ranks.py; without mpirun the one process does all of it.

    mpirun -np 2 python tests/rank_side.py FOLDER DATASET_DIR MODEL:7x32x32[:reversed] ...

writes FOLDER/RANKS-TASK.npz for each task.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignment import golden
from model import build_model, soft_iou_loss
from utils import cli, runtime
from utils.checkpoint.weights import get_weights
from utils.datasets import load_split
from utils.optim import Adam
from utils.runtime import ranks
from utils.training.engine import evaluation_steps, merge_counts
from utils.training.sharing import sharing

STEPS, RATE = 10, 5e-4  # of the official numbers


def whole(output):
    """The output for all images, from those of the ranks."""
    from model.ops.sharing import current_batch  # starts Jittor

    own = output.numpy() if getattr(current_batch(), "own", True) else output.numpy()[:0]
    return np.concatenate(ranks.gather(own))


def forward(net, x):
    """The network's output for this rank's part."""
    return net(runtime.jt.array(x[ranks.part(len(x))]))


def pass_through(net, x, mask, keys):
    """One forward and backward pass: output, loss, gradients by name, and running statistics."""
    from model.ops.sharing import current_batch

    net.train()
    with sharing(len(x)):
        output = forward(net, x)
        loss = soft_iou_loss(output, runtime.jt.array(mask[ranks.part(len(x))]))
        gradients = runtime.jt.grad(loss, [net.state_dict()[key] for key in keys])
        gradients = current_batch().sums(gradients)
        runtime.jt.sync_all(True)
        result = {f"gradient/{key}": each.numpy() for key, each in zip(keys, gradients)}
        return {**result, "train": whole(output), "loss": loss.numpy(),
                **{f"buffer/{key}": array for key, array in get_weights(net).items()}}


def train(net, x, mask):
    """The losses of some steps, and weights and statistics after them."""
    optimizer, losses = Adam(net.parameters(), RATE), []
    for _ in range(STEPS):
        with sharing(len(x)):
            loss = soft_iou_loss(forward(net, x), runtime.jt.array(mask[ranks.part(len(x))]))
            optimizer.step(loss)
        runtime.jt.sync_all(True)
        losses.append(loss.item())
    return {"losses": np.array(losses),
            **{f"trained/{key}": array for key, array in get_weights(net).items()}}


def compute(dataset_dir, name, shape, order=""):
    """All numbers of a task."""
    turn = slice(None, None, -1) if order else slice(None)
    size = tuple(map(int, shape.split("x")))
    x, mask = golden.images(*size)[turn], golden.masks(*size)[turn]
    fixture = golden.load(name)
    net = build_model(name, dropout=False)
    golden.reset(net, fixture)
    result = pass_through(net, x, mask, [str(key) for key in fixture["2x64x64/grad_keys"]])
    golden.reset(net, fixture)
    result.update(train(net, x, mask))
    states = ranks.gather({key: array for key, array in result.items() if "trained" in key})
    assert all((states[0][key] == state[key]).all() for state in states for key in state)
    if shape == "2x64x64":  # held to the official numbers, which are only these
        curves = [result["losses"]]
        for seed in golden.NUDGES:
            golden.reset(net, fixture, nudge=seed)
            curves.append(train(net, x, mask)["losses"])
        return {**result, "losses": np.median(curves, 0)}

    with_dropout = build_model(name)
    golden.reset(with_dropout, fixture)
    with_dropout.train()
    runtime.jt.set_seed(5)
    with sharing(len(x)):
        result["dropout"] = whole(forward(with_dropout, x))
    golden.reset(net, fixture)
    split = load_split(dataset_dir, "Tiny", "test")
    return {**result, "scores": json.dumps(merge_counts(evaluation_steps(net, split, 2)).compute())}


def main() -> None:
    """Runs the tasks of the command line."""
    folder, dataset_dir, *tasks = sys.argv[1:]
    runtime.start("cpu")
    # `mpirun -np 1` is one process, without MPI.
    assert runtime.jt.in_mpi == (ranks.size() > 1) and len(runtime.jt.ones(3)) == 3
    for task in tasks:
        result = compute(dataset_dir, *task.split(":"))
        if ranks.is_main():
            np.savez(Path(folder, f"{ranks.size()}-{task}.npz"), **result)


if __name__ == "__main__":
    cli.run(main, many=True)
