"""Predicts probability maps of images."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model import build_model, fast_form
from utils import runtime
from utils.checkpoint.weights import load_weights
from utils.datasets import ImageList, test_batches
from utils.paths import Paths, PredictionPaths
from utils.predict.prediction_files import save_prediction
from utils.runtime import ranks


def load_model(model_name: str, weights: str | Path) -> runtime.jt.Module:
    """The fast form of a network with the weights of a file, ready to predict.

    Raises:
        UserError: the weights cannot be read, or do not fit.
    """
    net = build_model(model_name)
    load_weights(net, weights)
    return to_predict(net)


def to_predict(net: runtime.jt.Module) -> runtime.jt.Module:
    """The fast form of a network in the precision that Jittor was started with."""
    net.eval()
    return fast_form(net, "bfloat16" if runtime.precision() == runtime.BF16 else "float32")


def predict(net: runtime.jt.Module, x: np.ndarray) -> np.ndarray:
    """Predicts the probability maps of a batch of images of any size.

    Args:
        net: a network in evaluation mode.
        x: N×1×H×W float32 in [0, 1].

    Returns:
        N×H×W float32 probabilities.
    """
    jt = runtime.jt
    with jt.no_grad():
        return net(jt.array(x)).numpy()[:, 0]


def predict_tiles(net: runtime.jt.Module, image: np.ndarray, tile: int) -> np.ndarray:
    """Predicts an image in overlapping tiles, with the memory for one tile.

    The map differs from the whole frame's, because theta is a statistic of the network's input.

    Args:
        net: a network in evaluation mode.
        image: H×W float32 in [0, 1].
        tile: side of the tiles. Neighbours overlap by a quarter of it, or more. Each pixel comes
            from the tile in which it is farther from the border.

    Returns:
        H×W float32 probabilities.
    """
    result = np.empty_like(image)
    for rows, taken_rows, inner_rows in _tile_spans(image.shape[0], tile):
        for columns, taken_columns, inner_columns in _tile_spans(image.shape[1], tile):
            part = predict(net, image[None, None, rows, columns])[0]
            result[taken_rows, taken_columns] = part[inner_rows, inner_columns]
    return result


def _tile_spans(size: int, tile: int) -> list[tuple[slice, slice, slice]]:
    """Each tile along one axis, the pixels that are taken from it, and where it has them."""
    overlap = tile // 4
    count = max(1, -(-(size - overlap) // (tile - overlap)))
    starts = np.linspace(0, max(size - tile, 0), count).astype(int)
    cuts = [0, *(starts[1:] + starts[:-1] + tile) // 2, size]
    return [(slice(start, start + tile), slice(first, last), slice(first - start, last - start))
            for start, first, last in zip(starts, cuts, cuts[1:])]


def predict_split(
    model_name: str,
    weights: str | Path,
    split: ImageList,
    output_dir: str | Path,
    batch_size: int = 8,
    subset: slice = slice(None),
) -> None:
    """Predicts the images of a list, and writes a .png and a .mat for each.

    The files are `<output_dir>/result/<split.dataset>/{img,mat}/<model_name>/NAME`. Once the
    first batch is predicted, the maps of an earlier run are removed: a run that is stopped leaves a
    list with missing maps, and not one with the maps of two networks.

    Args:
        weights: a file of weights.
        batch_size: of `test_batches`; a batch has images of one size.
        subset: the batches that this process predicts; all by default.

    Raises:
        UserError: the weights do not fit.
    """
    net = load_model(model_name, weights)
    folder = Paths(output_dir).predictions(split.dataset)
    batches = ((indices, predict(net, x)) for indices, x in test_batches(split, batch_size, subset))
    first = list(islice(batches, 1))  # it may fail, for want of memory
    if ranks.is_main():
        for path in chain.from_iterable(map(PredictionPaths(folder, model_name).maps, split.names)):
            path.unlink(missing_ok=True)
    ranks.gather(None)  # no rank writes before
    with tqdm(total=len(split), desc=model_name, unit="image", disable=None) as bar:
        for indices, maps in chain(first, batches):
            for index, probability in zip(indices, maps):
                save_prediction(probability, folder, model_name, split.names[index])
            bar.update(len(indices))
