"""From images to probability maps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from model import build_model, fast_form
from utils import places, runtime
from utils.checkpoint.weights import load_weights
from utils.datasets import ImageList, test_batches
from utils.predict.prediction_files import save_prediction


def load_model(model_name: str, weights: str | Path) -> runtime.jt.Module:
    """A network of that name with the weights of a file, ready to predict, in its fast form.

    Raises:
        UserError: as `load_weights`.
    """
    net = build_model(model_name)
    load_weights(net, weights)
    net.eval()
    return fast_form(net, "bfloat16" if runtime.precision() == runtime.BF16 else "float32")


def predict(net: runtime.jt.Module, x: np.ndarray) -> np.ndarray:
    """Probability maps of a batch of images of any size.

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
    """The probability map of an image from overlapping tiles, in the memory of one of them.

    Not the map of the whole frame: theta is a statistic of what the network sees at once.

    Args:
        net: a network in evaluation mode.
        image: H×W float32 in [0, 1].
        tile: side of the tiles; neighbours overlap by a quarter of it, or more, and each pixel
            is taken from the tile in which it lies farther from the border.

    Returns:
        H×W float32 probabilities.
    """
    result = np.empty_like(image)
    for top, bottom, first_row, last_row in _tile_spans(image.shape[0], tile):
        for left, right, first_column, last_column in _tile_spans(image.shape[1], tile):
            part = predict(net, image[None, None, top:bottom, left:right])[0]
            result[first_row:last_row, first_column:last_column] = part[
                first_row - top : last_row - top, first_column - left : last_column - left]
    return result


def _tile_spans(size: int, tile: int) -> list[tuple[int, int, int, int]]:
    """Along one axis: where each tile begins and ends, and where the pixels taken from it do."""
    overlap = tile // 4
    count = max(1, -(-(size - overlap) // (tile - overlap)))
    starts = np.linspace(0, max(size - tile, 0), count).astype(int)
    cuts = [0, *(starts[1:] + starts[:-1] + tile) // 2, size]
    return [(start, min(start + tile, size), *cuts[i : i + 2]) for i, start in enumerate(starts)]


def predict_split(
    model_name: str,
    weights: str | Path,
    split: ImageList,
    output_dir: str | Path,
    dataset_name: str,
    batch_size: int = 8,
    turn: slice = slice(None),
) -> None:
    """Predicts every image of a split and writes one .png and one .mat of each.

    They go to `<output_dir>/result/<dataset_name>/{img,mat}/<model_name>/NAME`.

    Args:
        weights: a file of weights.
        batch_size: images predicted at once, those of one size together.
        turn: which of the batches this process predicts; all by default.

    Raises:
        UserError: the weights do not fit.
    """
    net = load_model(model_name, weights)
    folder = places.predictions(output_dir, dataset_name)
    for index, probability in predict_images(net, split, batch_size, model_name, turn):
        save_prediction(probability, folder, model_name, split.names[index])


def predict_images(
    net: runtime.jt.Module, split: ImageList, batch_size: int, label: str, turn: slice = slice(None)
) -> Iterator[tuple[int, np.ndarray]]:
    """Each image's place in the split and its probability map, as soon as it is predicted.

    Args:
        net: a network in evaluation mode.
        batch_size, turn: of `predict_split`.
        label: of the progress bar.
    """
    with tqdm(total=len(split), desc=label, unit="image", disable=None) as bar:
        for indices, x in test_batches(split, batch_size, turn):
            yield from zip(indices, predict(net, x))
            bar.update(len(indices))
