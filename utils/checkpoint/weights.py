"""Weights and checkpoints: .npz files of plain arrays under the official parameter names.

A file is read without executing anything, so one from a stranger can do no harm. Beside the
weights it may hold `meta` (JSON) and, to resume training, entries that begin with `optimizer/`.
Weights alone are read from PyTorch's and Jittor's files too, see `utils.checkpoint.torch_files`.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils import runtime
from utils.checkpoint.torch_files import check_format, is_torch_file, read_torch_file
from utils.errors import UserError, listed
from utils.files import atomic_path
from utils.paths import BEST, LAST, Paths

META, OPTIMIZER = "meta", "optimizer/"
LARGEST = 2**30  # bytes of the arrays of one file; the networks and all their moments are 13 MB

# Entries of official files that take no part in the output.
_BATCHES_TRACKED = "num_batches_tracked"
_AVERAGES = "n_averaged"  # of PyTorch's AveragedModel
# Biases that a variant of the 1-D networks does without; it predicts as with zeros.
_OPTIONAL_BIASES = (".conv_1xn.bias", ".conv_nx1.bias")
_DEAD_KERNEL = re.compile(r"contrast\d(_\d)?\.0\.conv\.weight")

# How the official networks register their parts; all others come after, in the order of ours.
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
    """Whether all weights are finite numbers.

    On the CPU the arrays are looked at where they lie; from a GPU one sum of each is fetched, in
    one transfer, for hundreds would each wait for it.
    """
    if runtime.jt.flags.use_cuda and _sums_are_finite(net):
        return True
    return not find_not_finite(get_weights(net))


def _sums_are_finite(net: runtime.jt.Module) -> bool:
    with runtime.jt.no_grad():
        sums = runtime.jt.concat([variable.sum() for variable in net.state_dict().values()])
    return bool(np.isfinite(sums.numpy()).all())


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
        UserError: a weight is not finite; nothing is written then.
    """
    arrays = get_weights(net)
    broken = find_not_finite(arrays)
    if broken:
        raise UserError(f"{path}: not written, {broken} is not finite; try a lower --lr")
    arrays.update({OPTIMIZER + name: array for name, array in (optimizer or {}).items()})
    # Not into the file: where the disk is full, NumPy leaves an archive that cannot be closed.
    content = io.BytesIO()
    np.savez(content, **arrays, **{META: np.array(json.dumps(meta or {}))})
    with atomic_path(path, durable=True) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All entries of an .npz file, name → array.

    Raises:
        UserError: the file is missing, damaged, of another format, would need unpickling, or more
            memory than any checkpoint.
    """
    return _read(path, _arrays)


def read_meta(path: str | Path) -> dict[str, Any]:
    """The `meta` of a file that `save_weights` wrote; empty if it has none.

    Raises:
        UserError: as `read_arrays`.
    """
    return _read(path, _meta)


def read_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Both at once: between two readings a training may have replaced the file.

    Raises:
        UserError: as `read_arrays`.
    """
    return _read(path, lambda file: (_arrays(file), _meta(file)))


def _arrays(file):
    return {name: file[name] for name in file.files}


def _meta(file):
    meta = json.loads(str(file[META])) if META in file.files else {}
    if not isinstance(meta, dict):
        raise ValueError("not a dict")
    return meta


def _read(path: str | Path, take: Callable[[np.lib.npyio.NpzFile], Any]) -> Any:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; train the model first, or name a checkpoint")
    try:
        with np.load(path, allow_pickle=False) as file:
            claimed = sum(entry.file_size for entry in file.zip.infolist())
            if claimed > LARGEST:
                raise UserError(f"{path}: would take {claimed / 1e9:.1f} GB of memory, which is no "
                                "checkpoint of these networks; take another one")
            return take(file)
    except UserError:
        raise
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise UserError(
            f"{path}: not an .npz file of plain arrays, or damaged; "
            "remove it, or take another checkpoint"
        ) from error


def load_weights(
    net: runtime.jt.Module, source: str | Path | dict[str, np.ndarray]
) -> None:
    """Sets all parameters and running statistics of a network.

    Args:
        net: a network of `model.build_model`.
        source: the path of an .npz file or of one of PyTorch's or Jittor's (a state_dict, alone or
            in a checkpoint), or a dict of official names → arrays.

    Raises:
        UserError (a ValueError): the file cannot be read; an entry is missing, unexpected or
            misshaped. The network is then as it was.
    """
    own = net.state_dict()
    given = fitting_weights(source, {name: tuple(own[name].shape) for name in own})
    for name, variable in own.items():
        variable.update(runtime.jt.array(given[name]))


def fitting_weights(
    source: str | Path | Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The float32 weights of a network whose entries have these shapes; without Jittor.

    The prefix that a wrapper has put before all names is taken off. The unused `conv.weight` of the
    official 1-D networks and `num_batches_tracked` are passed over. Where the 1-D networks have no
    biases at all, those are zero, and a line says so.

    Args:
        source: of `load_weights`.
        shapes: official name → shape.

    Raises:
        UserError: as `load_weights`.
    """
    from_file = not isinstance(source, Mapping)
    where = str(source) if from_file else "weights"
    arrays = _read_weights(source, shapes) if from_file else source
    given = {name: np.asarray(array) for name, array in arrays.items()
             if name not in (META, _AVERAGES) and not name.startswith(OPTIMIZER)}
    prefix, _ = find_prefix(given, shapes)
    lacking = [name for name in given if not name.startswith(prefix)]
    if lacking:
        raise UserError(f"{where}: {_shown(lacking[0])} lacks the prefix {_shown(prefix)} of the "
                        "other names; save the state_dict of one network")
    given = {
        name: array for name, array in ((name[len(prefix):], given[name]) for name in given)
        if not name.endswith(_BATCHES_TRACKED)
        and not (_DEAD_KERNEL.fullmatch(name) and _is_separable(name, shapes))
    }
    zeros = {
        name: np.zeros(shapes[name], np.float32) for kind in _OPTIONAL_BIASES
        if not any(name.endswith(kind) for name in given)
        for name in shapes if name.endswith(kind)
    }
    given.update(zeros)
    problems = [f"missing {name}" for name in shapes if name not in given]
    problems += [f"unexpected {_shown(name)}" for name in given if name not in shapes]
    problems += [
        f"{name} is {given[name].shape} and not {shape}"
        for name, shape in shapes.items() if name in given and given[name].shape != shape
    ]
    # Only those expected from here on: of others there may be any number.
    given = {name: given[name] for name in shapes if name in given}
    problems += [
        f"{name} is of type {array.dtype}" for name, array in given.items()
        if array.dtype.kind not in "fiu"
    ]
    if not problems:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite in it
            given = {name: np.array(array, np.float32, order="C") for name, array in given.items()}
        problems += [f"{name} is not finite" for name, array in given.items()
                     if not np.isfinite(array).all()]
        problems += [f"{name} is below zero" for name, array in given.items()
                     if name.endswith("running_var") and (array < 0).any()]
    if problems:
        # Of names of another network the one that all begin with is told.
        common = prefix or os.path.commonprefix(list(arrays)).rpartition(".")[0]
        after = f" after the prefix {_shown(common)}" if prefix else (
            f", its names begin with {_shown(common)}." if common else "")
        raise UserError(
            f"{where}: not the weights of this network{after} ({listed(problems, 3, '; ')}); "
            "is it another model's file?"
        )
    if zeros:
        kinds = sorted({name.rsplit(".", 2)[1] for name in zeros})
        print(f"{where}: no bias in any {' or '.join(kinds)}, as in a variant of the 1-D networks; "
              "they count as zero")
    return given


def _shown(name: str) -> str:
    return f"{ascii(name)[1:-1]:.80}"


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
    for item in queue:  # which grows meanwhile
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
    return max(found, key=lambda arrays: (find_prefix(arrays, names)[1], len(arrays)))


def _read_weights(path: str | Path, names: Collection[str]) -> dict[str, np.ndarray]:
    check_format(path)
    if not is_torch_file(path):
        return read_arrays(path)
    weights = find_state_dict(read_torch_file(path), names)
    if not weights:
        raise UserError(f"{path}: holds no named tensors; save the network's state_dict, not the "
                        "network")
    return weights


def official_state_dict(
    weights: Mapping[str, np.ndarray], prefix: str = ""
) -> OrderedDict[str, np.ndarray]:
    """Weights as the official networks expect them in a strict `load_state_dict`.

    Args:
        weights: of `get_weights`, official name → array.
        prefix: before all names: "model." for the official `Net`, which holds the network so.

    Returns:
        The same in the official order, with what takes no part in the output: the counts of
        batches, and the unused k×k kernels of the 1-D networks, all of them zero.
    """
    def place(name: str) -> int:
        first = (i for i, part in enumerate(_FIRST_PARTS) if name.startswith(part))
        return next(first, len(_FIRST_PARTS))

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


def _is_separable(name: str, own: Mapping[str, Any]) -> bool:
    return name.replace(".conv.", ".conv_1xn.") in own
