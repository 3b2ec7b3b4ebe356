"""Scores the predictions of a model, ours or anyone's, from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation import THRESHOLD, Evaluator
from utils.datasets import ImageList
from utils.errors import UserError, listed
from utils.predict.prediction_files import predictions_of, read_prediction

# The largest value of a mask of 0 and 1 that was read as a map of 8 or 16 bits.
ONE_OF_FULL_SCALE = (np.float32(1) / np.float32(255), np.float32(1) / np.float32(65535))


def score_predictions(
    split: ImageList, folder: str | Path, threshold: float = THRESHOLD
) -> Evaluator:
    """Scores the predictions for the names of a split.

    Args:
        split: names and masks to score against.
        folder: holds NAME.mat, .npy or .png for each name.
        threshold: of `Evaluator`.

    Returns:
        The evaluator; its `images` are in the order of `split.names`.

    Raises:
        UserError: predictions are missing, or cannot be used; it names them.
    """
    files = predictions_of(split.names, folder)
    evaluator, problems, top = Evaluator(threshold), [], 0
    pairs = zip(split.names, split.masks)
    for name, mask in tqdm(pairs, "scoring", len(split), unit="image", leave=False, disable=None):
        try:
            prediction = read_prediction(files[name])
            evaluator.update(prediction, mask)
            top = max(top, prediction.max())
        except UserError as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{files[name]}: {error}; save probabilities, height x width, 0 to 1")
    if problems:
        raise UserError(listed(problems, 1, "; ", "files that cannot be used"))
    if top in ONE_OF_FULL_SCALE:
        raise UserError(
            f"{folder}: all values are 0 or 1 in files of 8 or 16 bits, at most 1/255; save masks "
            "with 0 and 255, or as bool in .npy"
        )
    return evaluator
