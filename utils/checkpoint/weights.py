"""Weights and checkpoints: .npz files of plain arrays under the official parameter names.

A file is read without executing anything, so one from a stranger can do no harm. Beside the
weights it may hold `meta` (JSON) and, to resume training, entries that begin with `optimizer/`.
Weights alone are read from PyTorch's and Jittor's files too, see `utils.checkpoint.torch_files`.
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils import runtime
from utils.checkpoint.torch_files import check_size, is_torch_file, read_torch_file
from utils.checkpoint.unpickle import shown
from utils.errors import UserError, listed
from utils.files import atomic_path
from utils.paths import BEST, LAST, Paths

META, OPTIMIZER = "meta", "optimizer/"
# Errors in reading that say nothing about the file: the disk, the network, permissions.
_NOT_OF_THE_FILE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES, errno.ENOMEM)

# Entries of official files that have no effect on the output.
_BATCHES_TRACKED = "num_batches_tracked"
_AVERAGES = "n_averaged"  # of PyTorch's AveragedModel
# Biases that a variant of the 1-D networks lacks; zeros have the same effect.
_OPTIONAL_BIASES = (".conv_1xn.bias", ".conv_nx1.bias")

# The parts that the official networks register first; the others keep the order of ours.
_FIRST_PARTS = ("layer", "contrast", "contrConV")


def find_weights(output_dir: str | Path, dataset_name: str, model_name: str) -> Path | None:
    """The best weights of a trained model, or the last if none was evaluated, or None."""
    folder = Paths(output_dir).checkpoints(dataset_name, model_name)
    paths = (folder / BEST, folder / LAST)
    return next((path for path in paths if path.is_file()), None)


def get_weights(net: runtime.jt.Module) -> dict[str, np.ndarray]:
    """The network's parameters and running statistics, official name → NumPy array."""
    return {name: variable.numpy() for name, variable in net.state_dict().items()}


def find_not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """The name of an array (of `get_weights`) that holds NaN or infinity, or None."""
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)


def all_finite(net: runtime.jt.Module) -> bool:
    """True if all weights are finite numbers."""
    if runtime.on_gpu():
        # One sum per array, fetched in one transfer: hundreds of arrays would each wait for theirs.
        with runtime.jt.no_grad():
            sums = runtime.jt.concat([variable.sum() for variable in net.state_dict().values()])
        if np.isfinite(sums.numpy()).all():
            return True
    return not find_not_finite(get_weights(net))


def save_weights(
    net: runtime.jt.Module,
    path: str | Path,
    meta: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes the weights, atomically.

    Args:
        net: a network of `model.build_model`.
        path: of the .npz file.
        meta: what JSON can hold (epoch, configuration, history …).
        optimizer: arrays to resume from, as `Adam.state_dict` returns them.

    Raises:
        UserError: a weight is not finite, or the path is of another format; nothing is written
            then.
    """
    if Path(path).suffix != ".npz":
        raise UserError(f"{path}: save_weights writes .npz files; convert_weights.py makes "
                        ".pth.tar, .pth and .onnx of them")
    arrays = get_weights(net)
    broken = find_not_finite(arrays)
    if broken:
        raise UserError(f"{path}: not written, {broken} is not finite; try a lower --lr")
    arrays.update({OPTIMIZER + name: array for name, array in (optimizer or {}).items()})
    # In memory first: on a full disk NumPy leaves an archive that cannot be closed.
    content = io.BytesIO()
    np.savez(content, **arrays, **{META: np.array(json.dumps(meta or {}))})
    with atomic_path(path, durable=True) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Entries and `meta` of one state of the file, which a training may replace at any time.

    Raises:
        UserError: the file is missing, damaged, of another format, would need unpickling, or more
            memory than any checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; train the model first, or name a checkpoint")
    try:
        with np.load(path, allow_pickle=False) as file:
            check_size(path, sum(entry.file_size for entry in file.zip.infolist()))
            arrays = dict(file)
        meta = json.loads(str(arrays.get(META, "{}")))
        if not isinstance(meta, dict):
            raise ValueError("not a dict")
    except UserError:
        raise
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        if isinstance(error, OSError) and error.errno in _NOT_OF_THE_FILE:
            raise
        raise UserError(
            f"{path}: not an .npz file of plain arrays, or damaged; "
            "take another file"
        ) from error
    return arrays, meta


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All entries of an .npz file, name → array; raises what `read_checkpoint` raises."""
    return read_checkpoint(path)[0]


def read_meta(path: str | Path) -> dict[str, Any]:
    """The `meta` of an .npz file, {} if it has none; raises what `read_checkpoint` raises."""
    return read_checkpoint(path)[1]


def read_file(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """The content of a file of any format that is read, and its `meta` if it is ours.

    Raises:
        UserError: as `read_checkpoint` and `read_torch_file`.
    """
    return (read_torch_file(path), {}) if is_torch_file(path) else read_checkpoint(path)


def load_weights(
    net: runtime.jt.Module, source: str | Path | Mapping[str, np.ndarray], name: str = "weights"
) -> None:
    """Sets all parameters and running statistics of a network.

    Args:
        net: a network of `model.build_model`.
        source: the path of an .npz file or of one of PyTorch's or Jittor's (a state_dict, alone or
            in a checkpoint), or a dict of official names → arrays.
        name: what an error calls the dict.

    Raises:
        UserError (a ValueError): the file cannot be read; an entry is missing, unexpected or
            misshaped. The network is then as it was.
    """
    own = net.state_dict()
    given = fitting_weights(source, {key: tuple(own[key].shape) for key in own}, name)
    for key, variable in own.items():
        variable.update(runtime.jt.array(given[key]))


def fitting_weights(
    source: str | Path | Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]],
    name: str = "weights",
) -> dict[str, np.ndarray]:
    """The float32 weights of a network whose entries have these shapes; without Jittor.

    Removes the prefix that a wrapper has put before all names. Ignores `num_batches_tracked` and
    the unused `conv.weight` of the official 1-D networks. If a 1-D network has no biases at all,
    they are zero, and a line says so.

    Args:
        source, name: of `load_weights`.
        shapes: official name → shape.

    Raises:
        UserError: as `load_weights`.
    """
    if not isinstance(source, Mapping):
        name, source = str(source), find_state_dict(read_file(source)[0], shapes)
    if not source:
        raise UserError(f"{name}: holds no named tensors; save the network's state_dict, not the "
                        "network")
    given = {key: np.asarray(array) for key, array in source.items()
             if key not in (META, _AVERAGES) and not key.startswith(OPTIMIZER)}
    prefix, _ = find_prefix(given, shapes)
    lacking = [key for key in given if not key.startswith(prefix)]
    if lacking:
        raise UserError(f"{name}: {shown(lacking[0])} lacks the prefix {shown(prefix)} of the "
                        "other names; save the state_dict of one network")
    given = {key[len(prefix):]: array for key, array in given.items()}
    given = {key: array for key, array in given.items()
             if not key.endswith(_BATCHES_TRACKED) and not _is_unused(key, shapes)}
    zeros = [key for kind in _OPTIONAL_BIASES for key in shapes if key.endswith(kind)
             and not any(other.endswith(kind) for other in given)]
    given.update((key, np.zeros(shapes[key], np.float32)) for key in zeros)

    problems = [f"missing {key}" for key in shapes if key not in given]
    problems += [f"unexpected {shown(key)}" for key in given if key not in shapes]
    weights = {}
    for key in (key for key in shapes if key in given):  # a file may hold any number of others
        array = given[key]
        if array.shape != shapes[key]:
            problems.append(f"{key} is {array.shape} and not {shapes[key]}")
        elif array.dtype.kind not in "fiu":
            problems.append(f"{key} is of type {array.dtype}")
        else:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in it
                weights[key] = np.array(array, np.float32, order="C")
            if not np.isfinite(weights[key]).all():
                problems.append(f"{key} is not finite")
            elif key.endswith("running_var") and (weights[key] < 0).any():
                problems.append(f"{key} is below zero")
    if problems:
        # Another network's file: the error tells the prefix that all its names have.
        common = os.path.commonprefix(list(source)).rpartition(".")[0]
        names = f", its names begin with {shown(common)}." if common else ""
        after = f" after the prefix {shown(prefix)}" if prefix else names
        raise UserError(f"{name}: not the weights of this network{after} "
                        f"({listed(problems, 3, '; ')}); take another file, or name its model "
                        "with --model_name")
    if zeros:
        kinds = sorted({key.rsplit(".", 2)[1] for key in zeros})
        print(f"{name}: no bias in any {' or '.join(kinds)}, as in a variant of the 1-D networks; "
              "they count as zero")
    return weights


def _is_unused(key: str, shapes: Mapping[str, Any]) -> bool:
    """True for the k×k kernel of an official LLSKM-1D, which takes no part in the output."""
    return key.endswith(".conv.weight") and key.replace(".conv.", ".conv_1xn.") in shapes


def find_prefix(keys: Iterable[str], names: Collection[str]) -> tuple[str, int]:
    """What a wrapper (`module.`, `model.`, `_orig_mod.` …) has put before the names of a network.

    Args:
        keys: the names in a file.
        names: the network's own.

    Returns:
        The prefix before most of the names, and the number of these names.
    """
    found = Counter()
    for key in keys:
        parts = key[-300:].rsplit(".", 12)  # the network's own names are shorter
        for i in range(len(parts)):
            rest = ".".join(parts[i:])
            if rest in names:
                found[key[: len(key) - len(rest)]] += 1
                break
    return max(found.items(), key=lambda item: (item[1], item[0] == ""), default=("", 0))


def find_state_dict(content: Any, names: Collection[str]) -> dict[str, np.ndarray]:
    """The weights in what `read_torch_file` returned, with the prefixes of wrappers.

    Args:
        content: a state_dict, or a dict or list that holds one at any depth, under any key.
        names: the names of the network's parameters. Of several dicts with arrays the one with
            most of these names is taken; of equal ones `state_dict`, else the first.

    Returns:
        Name → array; empty if there are no named arrays.
    """
    found, queue, seen = [{}], [content], set()
    for item in queue:  # the queue grows meanwhile
        if not isinstance(item, (dict, list, tuple)) or id(item) in seen:
            continue
        seen.add(id(item))
        if not isinstance(item, dict):
            queue += item
            continue
        queue += [item[key] for key in sorted(item, key=lambda key: key != "state_dict")]
        arrays = {name: getattr(value, "array", value) for name, value in item.items()
                  if isinstance(name, str)}
        found.append({name: array for name, array in arrays.items()
                      if isinstance(array, np.ndarray)})
    fits = [find_prefix(arrays, names)[1] for arrays in found]
    if max(fits):
        return found[fits.index(max(fits))]
    return max(found, key=len)  # to be refused by the names it has


def official_state_dict(
    weights: Mapping[str, np.ndarray], prefix: str = ""
) -> OrderedDict[str, np.ndarray]:
    """Weights as the official networks expect them in a strict `load_state_dict`.

    Args:
        weights: of `get_weights`, official name → array.
        prefix: put before all names; the official `Net` needs "model.".

    Returns:
        The weights in the official order, and the entries without effect, all zero: the counts of
        batches, and the unused k×k kernels of the 1-D networks.
    """
    def place(name: str) -> int:
        return [name.startswith(part) for part in (*_FIRST_PARTS, "")].index(True)

    official = OrderedDict()
    for name in sorted(weights, key=place):
        if name.endswith(".conv_1xn.weight"):
            channels, _, _, size = weights[name].shape
            kernel = np.zeros((channels, channels, size, size), np.float32)
            official[name.replace(".conv_1xn.", ".conv.")] = kernel
        official[name] = weights[name]
        if name.endswith(".running_var"):
            official[name.replace("running_var", _BATCHES_TRACKED)] = np.zeros((), np.int64)
    return OrderedDict((prefix + name, array) for name, array in official.items())
