"""The Jittor half of `python -m alignment`, in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import sys
from unittest import mock

import numpy as np
from tqdm import tqdm

from alignment.job import (
    Job,
    flat,
    framework_folder,
    read_job,
    step_batches,
    trainable,
    training_list,
)
from alignment.stages import HEAD, stage_modules
from model import build_model, soft_iou_loss
from utils import cli, runtime
from utils.checkpoint.weights import get_weights, load_weights, save_weights
from utils.datasets import ImageList
from utils.errors import UserError
from utils.files import atomic_path
from utils.optim import Adam
from utils.paths import LAST, Paths
from utils.predict.capture import keep_calls
from utils.training.run import TrainingOptions
from utils.training.run import train as train_network
from utils.training.stop import StopRequest
from utils.training.store import RunStatus, last_run, run_status


def main() -> int:
    """Does the task that `job.start` was given."""
    job = read_job()
    device = runtime.start(job.device, job.precision)
    print(f"Jittor: {device.describe()}", flush=True)
    if sys.argv[1] == "train":
        return train(job)
    if sys.argv[1] == "begin":
        begin(job)
    else:
        compare(job, device)
    return 0


def begin(job: Job) -> runtime.jt.Module:
    """Builds the network and writes its initial weights for PyTorch."""
    runtime.set_seed(job.recipe.seed)  # as utils.training does: whole runs start from these weights
    net = build_model(job.model_name, dropout=False)
    save_weights(net, job.start_file)
    return net


def compare(job: Job, device: runtime.Runtime) -> None:
    """Writes the initial weights, a capture of each batch, losses and weights of some steps."""
    split = training_list(job)
    net = begin(job)
    parameters = net.state_dict()
    if job.spoil and job.spoil not in parameters:
        raise UserError(f"--spoil {job.spoil}: {job.model_name} has no such weight")
    if job.spoil:
        parameters[job.spoil].update(parameters[job.spoil] * 1.01)
    first = get_weights(net)

    bar = tqdm(job.capture_files, "Jittor", unit="batch", leave=False, disable=None)
    for path, batch in zip(bar, step_batches(job.recipe, split)):
        load_weights(net, first)
        captured = capture(net, job.model_name, *batch)
        with atomic_path(path) as temporary:
            np.savez(temporary, **captured)

    load_weights(net, first)
    losses, weights = take_steps(net, job, split)
    meta = {"device": device.device, "description": device.describe()}
    with atomic_path(job.steps_file) as temporary:
        np.savez(temporary, losses=losses, weights=weights, meta=json.dumps(meta))


def capture(
    net: runtime.jt.Module, model_name: str, x: np.ndarray, y: np.ndarray
) -> dict[str, np.ndarray]:
    """One forward and backward pass in training mode, and what `bounds.distances` reads of it."""
    from model import layers
    from model.contrast import Branch
    from model.ops.layout import leave

    jt = runtime.jt
    modules = {}
    for stage, name in stage_modules(model_name).items():
        if stage != HEAD:
            module = getattr(net, name)
            # A contrast stage calls the two parts of a branch; the second part gives its output.
            modules[stage] = list(module)[-1] if isinstance(module, Branch) else module
    net.train()
    x, y = jt.array(x), jt.array(y)
    # A GPU would sum the norms in one operator, and have no outputs of branches.
    with keep_calls(modules) as calls, mock.patch.object(layers, "can_sum_norms", lambda _: False):
        head = net(x)
    outputs = {**{stage: output for stage, (_, output) in calls.items()}, HEAD: head}
    loss = soft_iou_loss(outputs[HEAD], y)
    everything = net.state_dict()
    names = trainable(everything)
    gradients = jt.grad(loss, [*outputs.values(), *(everything[name] for name in names)])
    jt.sync_all(True)
    found = {f"forward/{stage}": leave(output).numpy() for stage, output in outputs.items()}
    found.update((f"backward/{stage}", leave(g).numpy()) for stage, g in zip(outputs, gradients))
    found.update((f"gradients/{name}", g.numpy())
                 for name, g in zip(names, gradients[len(outputs):]))
    found.update((f"buffers/{name}", array) for name, array in get_weights(net).items()
                 if "running_" in name)
    found["forward/loss"] = loss.numpy()
    net.eval()
    with jt.no_grad():
        found["forward/head, evaluating"] = net(x).numpy()
    return found


def take_steps(
    net: runtime.jt.Module, job: Job, split: ImageList
) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the steps of Adam, and all parameters after each, steps×P."""
    jt = runtime.jt
    net.train()
    optimizer = Adam(net.parameters(), lr=job.recipe.lr)
    names = trainable(net.state_dict())
    losses, weights = [], []
    steps = tqdm(range(job.steps), desc="Jittor", unit="step", leave=False, disable=None)
    for _, (x, y) in zip(steps, step_batches(job.recipe, split)):
        loss = soft_iou_loss(net(jt.array(x)), jt.array(y))
        optimizer.step(loss)
        jt.sync_all(True)
        losses.append(loss.item())
        weights.append(flat(get_weights(net), names))
    return np.array(losses), np.array(weights)


def train(job: Job) -> int:
    """Trains a whole run by `utils.training`; goes on with an unfinished run."""
    folder = framework_folder(job.output_dir, job.dataset_name, "Jittor")
    recipe = dataclasses.asdict(job.recipe)
    now = run_status(last_run(folder, job.dataset_name, job.model_name), recipe)
    if now is RunStatus.FINISHED:
        last = Paths(folder).checkpoints(job.dataset_name, job.model_name) / LAST
        print(f"{job.model_name}: the {job.recipe.epochs} epochs of Jittor are there, {last}")
        return 0
    options = TrainingOptions(job.dataset_dir, folder, job.num_workers, job.eval_every,
                              job.eval_last)
    resume = "last" if now is RunStatus.RESUME else None
    with StopRequest() as stop:
        done = train_network(job.model_name, job.dataset_name, recipe, options, stop, resume)
    return 0 if done else stop.status


if __name__ == "__main__":
    cli.run(main)
