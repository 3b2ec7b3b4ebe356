"""Converts weights from one format into another, and checks them against their network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import THRESHOLD
from model import MODEL_NAMES, build_model
from utils.checkpoint.onnx_graph import make_onnx, require_onnx
from utils.checkpoint.torch_files import SUFFIXES, write_torch_file
from utils.checkpoint.weights import (
    find_prefix,
    find_state_dict,
    get_weights,
    load_weights,
    official_state_dict,
    read_file,
    save_weights,
)
from utils.errors import UserError
from utils.files import atomic_path

ONNX = ".onnx"  # written, not read


def convert(
    source: str | Path, target: str | Path, model_name: str | None = None,
    size: tuple[int, int] | None = None,
) -> str:
    """Reads weights, checks them against the network and writes them.

    Args:
        source: an .npz of ours, or a file of PyTorch's or Jittor's.
        target: its name decides. `.npz`; `.pth.tar`: a checkpoint as the official training script
            saves it; `.pth`, `.pt`: a state_dict of the network alone; `.onnx`: the network itself,
            for evaluation.
        model_name: one of MODEL_NAMES; by default what the weights fit.
        size: of `make_onnx`.

    Returns:
        One line that says what was written.

    Raises:
        UserError: a file cannot be read, the weights are not of the network, `target` has
            another ending, or the package onnx is missing and needed.
    """
    target = Path(target)
    if not target.name.endswith((".npz", ONNX, *SUFFIXES)):
        raise UserError(f"{target}: unknown ending; name it .npz, .pth.tar, .pth, .pt or .onnx")
    if size and target.suffix != ONNX:
        raise UserError(f"--size: has no effect on {target}, which takes images of any size; "
                        "leave it out")
    if target.suffix == ONNX:
        require_onnx(str(target))
    content, meta = read_file(source)
    model_name = model_name or meta.get("model")
    likely = [model_name] if model_name in MODEL_NAMES else MODEL_NAMES
    nets = {name: build_model(name) for name in likely}
    found = {name: find_state_dict(content, net.state_dict()) for name, net in nets.items()}
    model_name = max(nets, key=lambda name: _fit(nets[name].state_dict(), found[name]))
    net = nets[model_name]
    load_weights(net, found[model_name], str(source))

    weights = get_weights(net)
    beside = ""
    if target.suffix == ".npz":
        meta.pop("scheduler", None)  # without the optimizer it is no run to resume
        save_weights(net, target, meta)
    elif target.suffix == ONNX:
        made = make_onnx(net, model_name, _conventions(model_name, meta, size), size)
        with atomic_path(target) as temporary:
            temporary.write_bytes(made.SerializeToString())
    elif target.name.endswith(".pth.tar"):
        epoch, losses = _progress(content, meta.get("history"))
        state = official_state_dict(weights, "model.")
        write_torch_file(target, {"epoch": epoch, "state_dict": state, "total_loss": losses})
        beside = f", epoch {epoch}, {len(losses)} losses"
    else:
        write_torch_file(target, official_state_dict(weights))
    return (f"{target}: {model_name}, {len(weights)} arrays, "
            f"{sum(array.size for array in weights.values()):,} numbers{beside}")


def _fit(own: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> int:
    """Number of a network's entries that stand among the weights with their shape."""
    prefix, _ = find_prefix(weights, own)
    return sum(prefix + name in weights and weights[prefix + name].shape == tuple(entry.shape)
               for name, entry in own.items())


def _conventions(
    model_name: str, meta: Mapping[str, Any], size: tuple[int, int] | None
) -> dict[str, str]:
    """Name → text: what one must know to use the network in an ONNX file."""
    shape, sizes = ("1×1×{}×{}".format(*size), "") if size else ("N×1×H×W", ", any size")
    return {
        "name": model_name,
        "training_data": meta.get("dataset") or "unknown",
        "threshold": str(THRESHOLD),
        "input": f"{shape} float32 in [0, 1]{sizes}: grey levels (of colours 0.299 R + 0.587 G + "
                 "0.114 B) over 255, of 16-bit images over 65535",
        "output": f"{shape} float32: the probability of a target, which is where it exceeds the "
                  "threshold",
    }


def _progress(
    content: Any, history: Sequence[Mapping[str, Any]] | None
) -> tuple[int, list[float]]:
    """Epoch and training losses of a checkpoint: from our history, else from official entries."""
    content = content if isinstance(content, dict) else {}
    epoch, losses = content.get("epoch"), content.get("total_loss", content.get("loss", []))
    if history:
        epoch, losses = history[-1].get("epoch"), [record.get("loss") for record in history]
    losses = [float(loss) for loss in (losses if isinstance(losses, list) else [losses])
              if type(loss) in (int, float)]
    return epoch if type(epoch) is int else len(losses), losses
