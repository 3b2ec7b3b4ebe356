"""From images to probability maps, and the files that hold them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from tqdm import tqdm

from model import build_model
from utils.checkpoint import load_weights
from utils.datasets import test_batches
from utils.files import atomic_path
from utils.images import list_images, read_gray, to_float
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


def input_name(path):
    """What stands for the dataset's name in the results of a file or folder."""
    path = Path(path).resolve()
    return path.name if path.is_dir() else path.stem


def predict_images(model_name, weights, path, output_dir):
    """Predicts an image file or every image of a folder, one at a time, at its own size.

    The results go where `predict_split` puts them, with the name of the file or folder for that of
    the dataset. Of `a.png` and `a.tif` in one folder they are called `a_png` and `a_tif`.

    Raises:
        UserError: no image there, or one that cannot be read.
    """
    files = list_images(path)
    net = load_model(model_name, weights)
    result = Path(output_dir) / "result" / input_name(path)
    stems = Counter(file.stem for file in files)
    for file in tqdm(files, desc=model_name, unit="image", disable=None):
        probability = predict(net, to_float(read_gray(file))[None, None])[0]
        name = file.stem if stems[file.stem] == 1 else f"{file.stem}_{file.suffix[1:]}"
        save_prediction(probability, result, model_name, name)


def save_prediction(probability, result, model_name, name):
    """Writes a probability map, H×W in [0, 1], as an image and as a MATLAB file."""
    with atomic_path(result / "img" / model_name / f"{name}.png") as temporary:
        Image.fromarray(np.round(probability * 255).astype(np.uint8)).save(temporary)
    with atomic_path(result / "mat" / model_name / f"{name}.mat") as temporary:
        savemat(temporary, {"T": np.ascontiguousarray(probability)}, do_compression=True)
