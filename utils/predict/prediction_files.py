"""Writes and reads files of probability maps, ours and other methods'."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat, whosmat

from utils.data.images import read_gray, to_float
from utils.data.layouts import index_files
from utils.datasets import ImageList
from utils.errors import UserError, listed
from utils.files import atomic_path
from utils.paths import Paths, PredictionPaths
from utils.predict.mat_files import REAL_CLASSES, read_array

KEY = "T"  # the name of the probabilities in a .mat, as in the official code
SUFFIXES = (".mat", ".npy", ".png")
NO_PREDICTION = ("_gt", "_mask", "_label", "_fuse", "_overlay")  # suffixes of other pictures
LARGEST = 2**27  # most pixels of a prediction: 16384×8192
FAINT = tuple(np.float32(top) / np.float32(scale)
              for top, scale in ((1, 255), (1, 65535), (255, 65535)))


def save_prediction(probability: np.ndarray, folder: Path, model_name: str, name: str) -> None:
    """Writes a probability map as an image, 8-bit grey, and as a MATLAB file.

    Args:
        probability: H×W float32 in [0, 1].
        folder: from `Paths.predictions`.

    Raises:
        UserError: a probability is not finite; nothing is written then.
    """
    if not np.isfinite(probability).all():
        raise UserError(f"{name}: not written, {model_name} predicts NaN or infinity; take other "
                        "weights")
    png, mat = PredictionPaths(folder, model_name).maps(name)
    with atomic_path(png) as temporary:
        Image.fromarray(np.round(probability * 255).astype(np.uint8)).save(temporary)
    with atomic_path(mat) as temporary:
        savemat(temporary, {KEY: np.ascontiguousarray(probability)}, do_compression=True)


def prediction_folders(
    output_dir: str | Path,
    dataset_names: Sequence[str],
    models: Sequence[str] | None,
    default_models: Sequence[str],
    folders: Sequence[Path] | None = None,
) -> dict[str, dict[str, Path]]:
    """Dataset → model → folder of its predictions, by the flags of a script.

    Args:
        models: names (--model_name); None: the names of `folders`, else `default_models`.
        folders: of predictions (--pred), one for each model, or one that holds a folder for each;
            None: the predictions of test.py below `output_dir`.

    Raises:
        UserError: names and folders do not go together.
    """
    if folders:
        if len(dataset_names) > 1:
            raise UserError(f"--pred {folders[0]}: is of one dataset; name it with --dataset_name")
        if models and len(folders) == 1 and (len(models) > 1 or (folders[0] / models[0]).is_dir()):
            folders = [folders[0] / model for model in models]
        models = models or [Path(os.path.abspath(folder)).name for folder in folders]
        if len(models) != len(folders):
            raise UserError(f"--pred: {len(folders)} folders but {len(models)} of --model_name; "
                            "give each folder one name")
    models = models or default_models
    repeated = [name for name, count in Counter(models).items() if count > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: several models of this name; give each a --model_name")
    return {name: dict(zip(models, folders or [
        PredictionPaths(Paths(output_dir).predictions(name), model).mat for model in models]))
        for name in dataset_names}


class Predictions(NamedTuple):
    """The predictions of one model for some names.

    Attributes:
        folder: where the files lie.
        files: name → file.
        suffix: what stands after the names, `_Pred` of DNANet's `NAME_Pred.png`; "" if nothing.
        others: names of files for names that are not on the list.
    """

    folder: Path
    files: dict[str, Path]
    suffix: str
    others: list[str]

    def describe(self, list_name: str) -> str:
        """Lines: number of files per kind, their folder, the suffix and the ignored files."""
        kinds = Counter(path.suffix for path in self.files.values())
        lines = [" and ".join(f"{count} {kind}" for kind, count in kinds.items())
                 + f" in {self.folder}"]
        if self.suffix:
            lines.append(f"taken off the names of the predictions: {self.suffix}")
        if self.others:
            lines.append(f"ignored, not in the {list_name} list: {listed(self.others)}")
        return "\n".join(lines)


def find_predictions(
    names: Sequence[str], folder: str | Path, all_names: Sequence[str] = ()
) -> Predictions:
    """The predictions for all names in a folder; of one name .mat before .npy before .png.

    Args:
        all_names: all names of the list. Of several suffixes that fit `names`, the one that fits
            most of these is taken; a suffix that makes another of these names is none.

    Raises:
        UserError: there is no such folder, or predictions are missing; says which.
    """
    folder = Path(folder)
    _check_folder(folder)
    found = index_files(folder, SUFFIXES)
    suffix = _shared_suffix(names, all_names, found, folder)
    missing = [name for name in names if name + suffix not in found]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} predictions missing: {listed(missing)} "
            f"({', '.join(SUFFIXES)}); predict with test.py first"
        )
    files = {name: found[name + suffix] for name in names}
    listed_stems = {name + suffix for name in (*names, *all_names)}
    others = sorted(path.name for stem, path in found.items() if stem not in listed_stems)
    return Predictions(folder, files, suffix, others)


def _shared_suffix(names, all_names, files, folder):
    """The suffix that follows the name in the files of all names; "" for none."""
    first, on_list = next(iter(names), ""), set(all_names)
    shared = [suffix for suffix in {name[len(first):] for name in files if name.startswith(first)}
              if names and all(name + suffix in files for name in names)
              and not suffix[:1].isdigit()  # the 0 of Misc_10 is no suffix of Misc_1
              and not (suffix and any(name + suffix in on_list for name in names))]
    # NAME_Pred.png is preferred to NAME.png: beside it, that is DNANet's copy of the image.
    likely = [suffix for suffix in shared if "pred" in suffix.lower()]
    if not likely and "" not in shared:
        likely = [suffix for suffix in shared if suffix.lower() not in NO_PREDICTION]
    fits = [sum(name + suffix in files for name in all_names) for suffix in likely]
    likely = [suffix for suffix, count in zip(likely, fits) if count == max(fits)]
    if len(likely) > 1:
        raise UserError(f"{folder}: holds several predictions per image, "
                        f"NAME{' and NAME'.join(sorted(likely))}; move all but one kind elsewhere")
    return likely[0] if likely else ""


def _check_folder(folder: Path) -> None:
    """Raises a UserError if there is no such folder; it names the models beside it."""
    if folder.is_dir():
        return
    others = []
    with contextlib.suppress(OSError):  # no folder above it either, or one that is not readable
        others = sorted(path.name for path in folder.parent.iterdir() if path.is_dir()
                        and any(file.suffix in SUFFIXES for file in path.iterdir()))
    raise UserError(f"{folder}: no predictions of {folder.name} here; predict with test.py first"
                    + (f" (there are some of {', '.join(others)})" if others else ""))


def read_prediction(path: str | Path) -> np.ndarray:
    """The probability map in a file of ours or of any other method, H×W.

    Takes a .mat (its array `T`, else the only one it holds), a .npy, or an image. 8 and 16 bits are
    divided by full scale, other numbers are taken as they are; axes of length one are dropped.

    Raises:
        UserError: the file cannot be read, holds several arrays and none is `T`, or more numbers
            than an image has pixels.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; predict with test.py first")
    kind = path.suffix.lower()
    if kind in (".mat", ".npy"):
        try:
            array = _read_mat(path) if kind == ".mat" else _read_npy(path)
        except UserError:
            raise
        except Exception as error:  # a damaged file raises a dozen kinds
            raise UserError(f"{path}: not a {kind} file that can be read "
                            f"({' '.join(str(error).split())[:200]}); write it anew") from error
    else:
        array = read_gray(path)
    _check_shape(path, array.shape)
    if array.dtype.kind not in "buif":
        raise UserError(f"{path}: holds {array.dtype}, not real numbers; save probabilities")
    if array.ndim > 2:
        array = array.squeeze()
    return to_float(array) if array.dtype in (np.uint8, np.uint16) else array


def _read_mat(path: Path) -> np.ndarray:
    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(path)
                 if not name.startswith("__")}
    except NotImplementedError as error:
        raise UserError(f"{path}: a MATLAB 7.3 file; save it with -v7") from error
    if KEY not in found and len(found) != 1:
        names = ascii(listed(list(found)))[1:-1] or "nothing"
        raise UserError(f"{path}: holds no array {KEY} but {names}; save the probabilities as "
                        f"{KEY}")
    name = KEY if KEY in found else next(iter(found))
    shape, kind = found[name]
    if kind not in REAL_CLASSES:
        raise UserError(f"{path}: holds a {kind}, not real numbers; save the probabilities as "
                        f"{KEY}")
    _check_shape(path, shape)
    return read_array(path, name)


def _read_npy(path: Path) -> np.ndarray:
    array = np.load(path, allow_pickle=False)  # no Python objects
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an .npz under the name of an .npy; save one array with np.save")
    return array


def _check_shape(path, shape):
    if min(shape, default=1) < 1 or math.prod(shape) > LARGEST:
        raise UserError(f"{path}: an array of {'x'.join(map(str, shape))} is no probability map; "
                        "save it at the size of the image")


def read_predictions(split: ImageList, folder: str | Path, rows: Sequence[int]) -> list[np.ndarray]:
    """The predictions for some images of a split, by index, H×W each.

    Raises:
        UserError: one is missing, cannot be read, is not of the size of its image, or holds no
            probabilities.
    """
    names = [split.names[row] for row in rows]
    files = find_predictions(names, folder, split.names).files
    maps = [read_prediction(files[name]) for name in names]
    for row, name, prediction in zip(rows, names, maps):
        if prediction.shape != split.images[row].shape:
            raise UserError(
                f"{files[name]}: the prediction is of shape {prediction.shape} but its image of "
                f"{split.images[row].shape}; save it at the size of the image"
            )
        low, high = prediction.min(), prediction.max()
        if not (low >= 0 and high <= 1):  # also NaN
            raise UserError(f"{files[name]}: holds values from {low} to {high}; save "
                            "probabilities, 0 to 1")
    if len(maps) > 1:  # a single map of 8 bits may be as dark
        check_scale(max(prediction.max() for prediction in maps), folder)
    return maps


def check_scale(top: float, folder: str | Path) -> None:
    """Raises a UserError if `top`, the largest value of all maps, is that of masks, read as maps.

    Masks of 0 and 1 in 8 or 16 bits, or of 0 and 255 in 16 bits, would be black without a word.
    """
    if top in FAINT:
        raise UserError(f"{folder}: the largest value of all maps is {top:.2g} of full scale, as "
                        "of masks of 0 and 1, or of 0 and 255 in 16 bits; save masks with 0 and "
                        "255 in 8 bits, or as bool in .npy")
