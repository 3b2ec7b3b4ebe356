"""From images to probability maps, and the files that hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from tqdm import tqdm

from model import build_model
from utils.checkpoint import load_weights
from utils.datasets import test_batches
from utils.files import atomic_path
from utils.runtime import jt


def load_model(model_name, weights):
    """A network of that name with the weights of a file, ready to predict."""
    net = build_model(model_name)
    load_weights(net, weights)
    net.eval()
    return net


def predict(net, x):
    """Probability maps of a batch of images of any size.

    Args:
        net: a network in evaluation mode.
        x: N×1×H×W float32 in [0, 1].

    Returns:
        N×H×W float32 probabilities.
    """
    with jt.no_grad():
        return net(jt.array(x)).numpy()[:, 0]


def predict_tiles(net, image, tile):
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


def _tile_spans(size, tile):
    """Along one axis: where each tile begins and ends, and where the pixels taken from it do."""
    overlap = tile // 4
    count = max(1, -(-(size - overlap) // (tile - overlap)))
    starts = np.linspace(0, max(size - tile, 0), count).astype(int)
    cuts = [0, *(starts[1:] + starts[:-1] + tile) // 2, size]
    return [(start, min(start + tile, size), *cuts[i : i + 2]) for i, start in enumerate(starts)]


def predict_split(model_name, weights, split, output_dir, dataset_name, batch_size=8):
    """Predicts every image of a split and writes one .png and one .mat of each.

    They go to `<output_dir>/result/<dataset_name>/{img,mat}/<model_name>/NAME`: 8-bit grey, and
    under the key `T` the float32 probabilities.
    """
    net = load_model(model_name, weights)
    result = Path(output_dir) / "result" / dataset_name
    with tqdm(total=len(split), desc=model_name, unit="image", disable=None) as bar:
        for indices, x in test_batches(split, batch_size):
            for index, probability in zip(indices, predict(net, x)):
                save_prediction(probability, result, model_name, split.names[index])
            bar.update(len(indices))


def save_prediction(probability, result, model_name, name):
    """Writes a probability map, H×W in [0, 1], as an image and as a MATLAB file."""
    with atomic_path(result / "img" / model_name / f"{name}.png") as temporary:
        Image.fromarray(np.round(probability * 255).astype(np.uint8)).save(temporary)
    with atomic_path(result / "mat" / model_name / f"{name}.mat") as temporary:
        savemat(temporary, {"T": np.ascontiguousarray(probability)}, do_compression=True)
