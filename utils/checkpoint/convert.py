"""Weights from one format into the other, by way of the network they belong to."""

from __future__ import annotations

from pathlib import Path

from model import MODEL_NAMES, build_model
from utils.checkpoint.onnx_graph import make_onnx, require_onnx
from utils.checkpoint.torch_files import (
    SUFFIXES,
    find_state_dict,
    is_torch_file,
    read_torch_file,
    write_torch_file,
)
from utils.checkpoint.weights import (
    get_weights,
    load_weights,
    official_state_dict,
    read_checkpoint,
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
        source: an .npz of ours, or a .pth, .pth.tar or .pt of PyTorch's.
        target: its name decides. `.npz`; `.pth.tar`: a dict of `state_dict` and the numbers that
            stand beside it in the source (`epoch`, loss and scores); `.pth`, `.pt`: a state_dict;
            `.onnx`: the network itself, for evaluation.
        model_name: one of MODEL_NAMES; by default what the weights fit.
        size: of `make_onnx`.

    Returns:
        One line that says what was written.

    Raises:
        UserError: a file cannot be read, the weights are not of the network, `target` has
            another ending, or the package onnx is missing and needed.
    """
    source, target = Path(source), Path(target)
    if not target.name.endswith((".npz", ONNX, *SUFFIXES)):
        raise UserError(f"{target}: unknown ending; name it .npz, .pth.tar, .pth, .pt or .onnx")
    if size and target.suffix != ONNX:
        raise UserError(f"--size: {target} holds weights, for images of any size; leave it out")
    if target.suffix == ONNX:
        require_onnx(str(target))
    from_torch = is_torch_file(source)
    content, meta = (read_torch_file(source), {}) if from_torch else read_checkpoint(source)

    names = [model_name or meta.get("model")]
    nets = {name: build_model(name) for name in (names if names[0] else MODEL_NAMES)}
    found = {name: find_state_dict(content, net.state_dict()) for name, net in nets.items()}
    model_name = max(nets, key=lambda name: _fit(nets[name].state_dict(), found[name]))
    net = nets[model_name]
    load_weights(net, source)

    weights = get_weights(net)
    numbers = {}
    if target.suffix == ".npz":
        meta.pop("scheduler", None)  # without the optimizer it is no run to resume
        save_weights(net, target, meta)
    elif target.suffix == ONNX:
        made = make_onnx(net, model_name, _conventions(model_name, meta, size), size)
        with atomic_path(target) as temporary:
            temporary.write_bytes(made.SerializeToString())
    elif target.name.endswith(".pth.tar"):
        numbers = _numbers(content if from_torch else (meta.get("history") or [{}])[-1])
        write_torch_file(target, {**numbers, "state_dict": official_state_dict(weights)})
    else:
        write_torch_file(target, official_state_dict(weights))
    beside = f", with {', '.join(f'{name} {value:g}' for name, value in numbers.items())}"
    return (f"{target}: {model_name}, {len(weights)} arrays, "
            f"{sum(array.size for array in weights.values()):,} numbers{beside if numbers else ''}")


def _conventions(model_name, meta, size):
    """What one must know to use a network, as text."""
    shape, sizes = ("1×1×{}×{}".format(*size), "") if size else ("N×1×H×W", ", any size")
    return {
        "name": model_name,
        "training_data": meta.get("dataset") or "unknown",
        "threshold": "0.5",
        "input": f"{shape} float32 in [0, 1]{sizes}: grey levels (of colours 0.299 R + 0.587 G + "
                 "0.114 B) over 255, of 16-bit images over 65535",
        "output": f"{shape} float32: the probability of a target, which is where it exceeds the "
                  "threshold",
    }


def _fit(own, weights):
    """How many entries of a network are among the weights, less those that it lacks."""
    fitting = sum(name in weights and weights[name].shape == tuple(own[name].shape) for name in own)
    return 2 * fitting - len(own)


def _numbers(record):
    """The numbers beside a state_dict, or those of an epoch in our meta."""
    if not isinstance(record, dict):
        return {}
    return {"total_loss" if name == "loss" else name: value for name, value in record.items()
            if isinstance(name, str) and isinstance(value, (int, float))
            and not isinstance(value, bool) and name != "time"}
