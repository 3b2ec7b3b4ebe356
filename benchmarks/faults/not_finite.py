"""NaN and infinity wherever numbers come from files: named, not averaged away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from benchmarks.faults.bad_input import NOTHING, SHAPES, verdict
from benchmarks.faults.guarded import guarded
from benchmarks.faults.trial import Tally, Trial
from utils.checkpoint.torch_files import write_torch_file
from utils.checkpoint.weights import fitting_weights
from utils.data.datasets import Split
from utils.data.images import read_gray, read_mask
from utils.predict.prediction_files import read_predictions, save_prediction
from utils.report.scoring import score_predictions
from utils.training.resume import read_run

VALUES = (np.nan, np.inf, -np.inf)


def cases(folder: Path) -> list[tuple[str, Path, Callable[[Path], Any]]]:
    """Writes a file for each: (what is in it, its path, how it is read)."""
    found: list[tuple[str, Path, Callable[[Path], Any]]] = []
    mask = np.zeros((8, 9), np.uint8)
    mask[3, 4] = 1
    image = np.zeros((8, 9), np.uint8)
    split = Split("D", "test", folder, ["a"], [image], [mask])

    def weights(path):
        return fitting_weights(path, SHAPES)

    def score(path):
        return score_predictions(split, path.parent)

    def draw(path):
        return read_predictions(split, path.parent, [0])

    def save(path):
        return save_prediction(np.load(path), folder / "saved", "M", str(path))

    for number, value in enumerate((*VALUES, 1e300, -1e300)):
        place = folder / str(number)
        place.mkdir()
        bad = np.full((8, 9), 0.5, np.float64)
        bad[2, 7] = value
        arrays = {name: np.ones(shape) for name, shape in SHAPES.items()}
        arrays["layer0.0.body.0.weight"].flat[5] = value
        np.savez(place / "weights.npz", **arrays)
        write_torch_file(place / "weights.pth.tar", {"state_dict": arrays})
        found += [(f"weight {value}", place / name, weights)
                  for name in ("weights.npz", "weights.pth.tar")]
        if not np.isfinite(value):
            Image.fromarray(bad.astype(np.float32)).save(place / "image.tif")
            found += [(f"pixel {value}", place / "image.tif", read)
                      for read in (read_gray, read_mask)]
            np.save(place / "map.npy", bad)
            found.append((f"predicted {value}", place / "map.npy", save))
        for kind in ("npy", "mat"):
            (place / kind).mkdir()
            path = place / kind / f"a.{kind}"
            np.save(path, bad) if kind == "npy" else savemat(path, {"T": bad})
            found.append((f"prediction of others {value}", path, score))
            if not np.isfinite(value):
                found.append((f"prediction of others {value}, drawn", path, draw))
    arrays["layer0.0.body.0.weight"].flat[5] = 1
    arrays["layer0.0.body.1.running_var"][1] = -1
    np.savez(folder / "variance.npz", **arrays)
    found.append(("variance -1", folder / "variance.npz", weights))
    meta = {"scheduler": {"last_epoch": 0, "base_lr": 1e-3, "milestones": [], "gamma": 0.1},
            "recipe": {"epochs": 3}, "history": [], "started": "x", "model": "M", "dataset": "D"}
    for name, losses, moment in (("losses", [float("nan")], 0.0), ("moments", [], np.nan)):
        path = folder / f"{name}.npz"
        np.savez(path, **{"optimizer/m.0": np.array(moment)},
                 meta=np.array(json.dumps({**meta, "losses": losses})))
        found.append((f"{name} of a run", path, read_run))
    return found


def read_all(folder: Path, seed: int, tries: int) -> Tally:
    """Reads every one of them."""
    made, tally = cases(folder), Tally()
    for number, answer, _ in guarded(
        lambda number: verdict(made[number][2], made[number][1], NOTHING), len(made)
    ):
        what = "was taken" if answer == "other" else answer
        tally.add(what, f"{made[number][1].name}, {made[number][0]}")
    return tally


def trials() -> list[Trial]:
    """Those of this subject."""
    return [Trial("numbers", "NaN, infinity and what float32 cannot hold, in every kind of file",
                  read_all, 1, 1, 1)]
