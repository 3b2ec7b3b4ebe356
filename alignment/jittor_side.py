"""The Jittor half of `python -m alignment`, in a process of its own."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
from tqdm import tqdm

from alignment.job import (
    RUN_RECIPE,
    files,
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
from utils.checkpoint.weights import (
    checkpoint_folder,
    get_weights,
    load_weights,
    read_meta,
    save_weights,
)
from utils.errors import UserError
from utils.files import atomic_path
from utils.optim import Adam
from utils.recipe import recipe_of, same_run
from utils.training.run import StopRequest
from utils.training.run import train as train_network


def main():
    job = read_job()
    device = runtime.start(job.device, job.precision)
    print(f"Jittor: {device.describe()}", flush=True)
    return {"compare": compare, "train": train}[job.task](job, device)


def compare(job, device):
    """Writes the initial weights, a capture of each batch, losses and weights of some steps."""
    where = files(job)
    split = training_list(job)
    runtime.set_seed(job.seed)  # as utils.training does: whole runs start from these weights
    net = build_model(job.model_name)
    parameters = net.state_dict()
    if job.spoil and job.spoil not in parameters:
        raise UserError(f"--spoil {job.spoil}: {job.model_name} has no such weight")
    save_weights(net, where.start)
    if job.spoil:
        parameters[job.spoil].update(parameters[job.spoil] * 1.01)
    if hasattr(net, "head"):
        net.head.dropout = 0.0
    first = get_weights(net)

    bar = tqdm(where.captures, "Jittor", unit="batch", leave=False, disable=None)
    for path, batch in zip(bar, step_batches(job, split)):
        load_weights(net, first)
        captured = capture(net, job.model_name, *batch)
        with atomic_path(path) as temporary:
            np.savez(temporary, **captured)

    load_weights(net, first)
    losses, weights = take_steps(net, job, split)
    meta = {"device": device.device, "description": device.describe()}
    with atomic_path(where.steps) as temporary:
        np.savez(temporary, losses=losses, weights=weights, meta=json.dumps(meta))


def capture(net, model_name, x, y):
    """One forward and backward pass in training mode, and what `bounds.distances` reads of it."""
    from model.ops.layout import leave

    jt = runtime.jt
    outputs = {}
    for stage, name in stage_modules(model_name).items():
        if stage != HEAD:
            _keep_output(getattr(net, name), stage, outputs)
    net.train()
    x, y = jt.array(x), jt.array(y)
    outputs[HEAD] = net(x)
    loss = soft_iou_loss(outputs[HEAD], y)
    everything = net.state_dict()
    names = trainable(everything)
    gradients = jt.grad(loss, [*outputs.values(), *(everything[name] for name in names)])
    jt.sync_all(True)
    keys = [*(f"backward/{stage}" for stage in outputs), *(f"gradients/{name}" for name in names)]
    gradients[: len(outputs)] = map(leave, gradients[: len(outputs)])
    found = {f"forward/{stage}": leave(output).numpy() for stage, output in outputs.items()}
    found.update((key, gradient.numpy()) for key, gradient in zip(keys, gradients))
    found.update((f"buffers/{name}", array) for name, array in get_weights(net).items()
                 if "running_" in name)
    found["forward/loss"] = loss.numpy()
    for name in stage_modules(model_name).values():
        vars(getattr(net, name)).pop("execute", None)
    net.eval()
    with jt.no_grad():
        found["forward/head, evaluating"] = net(x).numpy()
    return found


def _keep_output(module, stage, outputs):
    execute = module.execute

    def keeping(*arguments):
        outputs[stage] = execute(*arguments)
        return outputs[stage]

    module.execute = keeping


def take_steps(net, job, split):
    """Losses of the steps of Adam, and all parameters after each, steps×P."""
    jt = runtime.jt
    net.train()
    optimizer = Adam(net.parameters(), lr=job.lr)
    names = trainable(net.state_dict())
    losses, weights = [], []
    steps = tqdm(range(job.steps), desc="Jittor", unit="step", leave=False, disable=None)
    for _, (x, y) in zip(steps, step_batches(job, split)):
        loss = soft_iou_loss(net(jt.array(x)), jt.array(y))
        optimizer.step(loss)
        jt.sync_all(True)
        losses.append(loss.item())
        weights.append(flat(get_weights(net), names))
    return np.array(losses), np.array(weights)


def train(job, _):
    """A whole run by `utils.training`; one that is finished is left alone, one begun goes on."""
    folder = framework_folder(job.output_dir, job.dataset_name, "Jittor")
    last = checkpoint_folder(folder, job.dataset_name, job.model_name) / "last.npz"
    meta = read_meta(last) if last.is_file() else {}
    recipe = {key: getattr(job, key) for key in RUN_RECIPE}
    same = bool(meta) and same_run(recipe, recipe_of(meta))
    if same and len(meta["history"]) >= job.epochs:
        print(f"{job.model_name}: the {job.epochs} epochs of Jittor are there, {last}")
        return 0
    args = Namespace(**recipe, dataset_dir=job.dataset_dir, num_workers=job.num_workers,
                     output_dir=folder, resume="last" if same else None, eval_every=1,
                     eval_last=1, threshold=0.5)
    with StopRequest() as stop:
        return 0 if train_network(job.model_name, job.dataset_name, args, stop) else stop.status


if __name__ == "__main__":
    cli.run(main)
