"""The same batches and the same steps in PyTorch, compared with what Jittor has written."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Dict, Mapping, Tuple

import numpy as np
import torch
from tqdm import tqdm

from alignment import bounds, twin
from alignment.job import Job, flat, step_batches, trainable, training_list
from alignment.stages import HEAD, stage_modules
from utils.datasets import ImageList
from utils.files import write_text

Weights = Mapping[str, np.ndarray]  # official name → array
Distances = Dict[Tuple[str, str], tuple]  # what `bounds.distances` returns


def compare(job: Job) -> None:
    """Captures each batch in float32 and float64, takes the same steps, writes what differs."""
    start, split = read_start(job), training_list(job)
    with np.load(job.steps_file) as file:
        jittor = dict(file)
    meta = json.loads(str(jittor["meta"]))
    device = choose_device(meta["device"], job.precision)
    print(f"{describe(device)}; the truth in float64 on the CPU", flush=True)
    bar = tqdm(job.capture_files, "PyTorch", unit="batch", leave=False, disable=None)
    compared, (zero, *_) = zip(*(compare_batch(job, start, device, path, batch)
                                 for path, batch in zip(bar, step_batches(job.recipe, split))))
    steps = take_steps(job, split, start, device, jittor, zero)
    result = {
        "model": job.model_name, "dataset": job.dataset_name, "spoil": job.spoil,
        "recipe": job.step_recipe(), "device": device,
        "devices": {"Jittor": meta["description"], "PyTorch": describe(device)},
        "stages": bounds.judge(compared), "steps": steps, "zero_gradients": zero,
    }
    write_text(job.comparison_file, json.dumps(result, indent=1))


def compare_batch(
    job: Job, start: Weights, device: str, path: Path, batch: tuple[np.ndarray, np.ndarray]
) -> tuple[Distances, list[str]]:
    """Distances by stages, and the parameters whose true gradient is zero."""
    truth = capture(job.model_name, start, *batch, torch.float64, "cpu")
    pytorch = capture(job.model_name, start, *batch, torch.float32, device)
    with np.load(path) as jittor:  # its arrays are read one by one, when they are asked for
        found = bounds.distances(job.model_name, jittor, pytorch, truth)
    return found, bounds.zero_gradients(truth)


def read_start(job: Job) -> dict[str, np.ndarray]:
    """The initial weights, which Jittor has drawn."""
    with np.load(job.start_file) as file:
        return {name: file[name] for name in file.files if name != "meta"}


def choose_device(jittor_device: str, precision: str) -> str:
    """A GPU if Jittor ran on one and PyTorch has one, at the same precision; else the CPU."""
    if jittor_device != "cuda" or not torch.cuda.is_available():
        return "cpu"
    set_precision(precision)
    return "cuda"


def set_precision(precision: str) -> None:
    """TF32 on a GPU as `utils.runtime.start` has it."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision != "float32"


def describe(device: str) -> str:
    """One line: PyTorch's version and what it runs on."""
    threads = f"{torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if device == "cuda" else threads
    return f"PyTorch {torch.__version__} on {device} ({name})"


def build(
    model_name: str, weights: Weights, dropout: bool, dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> torch.nn.Module:
    """The twin with these weights."""
    net = twin.build_twin(model_name, dropout)
    twin.load_weights(net, weights)
    return net.to(device, dtype)


def capture(
    model_name: str, weights: Weights, x: np.ndarray, y: np.ndarray, dtype: torch.dtype,
    device: str,
) -> dict[str, np.ndarray]:
    """One forward and backward pass in training mode, and what `bounds.distances` reads of it."""
    net = build(model_name, weights, False, dtype, device)
    outputs = {}
    for stage, name in stage_modules(model_name).items():
        if stage != HEAD:
            getattr(net, name).register_forward_hook(
                lambda module, inputs, output, stage=stage: outputs.update({stage: output})
            )
    net.train()
    x, y = (torch.from_numpy(array).to(device, dtype) for array in (x, y))
    outputs[HEAD] = net(x)
    for output in outputs.values():
        output.retain_grad()
    loss = twin.soft_iou_loss(outputs[HEAD], y)
    loss.backward()
    found = {f"forward/{stage}": _array(output) for stage, output in outputs.items()}
    found.update((f"backward/{stage}", _array(output.grad)) for stage, output in outputs.items())
    found.update((f"gradients/{name}", _array(parameter.grad))
                 for name, parameter in net.named_parameters() if parameter.grad is not None)
    found.update((f"buffers/{name}", array) for name, array in twin.get_weights(net).items()
                 if "running_" in name)
    found["forward/loss"] = _array(loss)
    net.eval()
    with torch.no_grad():
        found["forward/head, evaluating"] = _array(net(x))
    return found


def _array(tensor):
    return tensor.detach().cpu().numpy()


def take_steps(
    job: Job, split: ImageList, start: Weights, device: str, jittor: Mapping[str, np.ndarray],
    zero: Collection[str],
) -> dict[str, list[float]]:
    """Takes the same steps of Adam, and measures the distance from Jittor's weights after each.

    Returns:
        Losses `jittor` and `pytorch`. `drift`: L2 distance of all parameters but those whose true
        gradient is zero, relative to their norm; `drift_of_way`: relative to their way so far.
    """
    net = build(job.model_name, start, False, device=device)
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=job.recipe.lr)
    names = trainable(start)
    counted = np.concatenate([np.full(start[name].size, name not in zero) for name in names])
    before = flat(start, names)[counted]
    ours = jittor["weights"]
    losses, drift, relative = [], [], []
    steps = tqdm(range(job.steps), desc="PyTorch", unit="step", leave=False, disable=None)
    for step, batch in zip(steps, step_batches(job.recipe, split)):
        losses.append(take_step(net, optimizer, *batch, device))
        weights = flat(twin.get_weights(net), names)[counted]
        distance = np.linalg.norm(ours[step][counted] - weights)
        drift.append(float(distance / np.linalg.norm(weights)))
        relative.append(float(distance / np.linalg.norm(weights - before)))
    return {"jittor": jittor["losses"].tolist(), "pytorch": losses, "drift": drift,
            "drift_of_way": relative}


def take_step(
    net: Callable, optimizer: torch.optim.Optimizer, x: np.ndarray, y: np.ndarray, device: str,
    layout: torch.memory_format = torch.preserve_format,
) -> float:
    """One step of training; returns the loss before it."""
    x, y = (torch.from_numpy(array).to(device, memory_format=layout) for array in (x, y))
    optimizer.zero_grad()
    loss = twin.soft_iou_loss(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()
