"""Prediction: any size, test.py by its real command line, and what it writes."""

from __future__ import annotations

import numpy as np
import pytest
import scripts
from PIL import Image
from scipy.io import loadmat

from model import build_model
from utils.checkpoint.pretrained import find_pretrained
from utils.checkpoint.weights import save_weights
from utils.data.images import input_name, read_gray, to_float
from utils.data.synthetic import make_sample, write_sample_dataset
from utils.predict.maps import load_model, predict
from utils.runtime import jt, set_seed

pytestmark = pytest.mark.usefixtures("cpu")

MODEL = "L2SKNet_UNet"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A dataset, test images of three sizes among it, and weights that tell images apart."""
    folder = tmp_path_factory.mktemp("predict")
    data = write_sample_dataset(folder / "data" / "Tiny", 2, 3, scripts.SIZE)
    for name, size in (("wide", (33, 50)), ("tall", (41, 32)), ("wide_too", (33, 50))):
        image, _ = make_sample(*size, np.random.default_rng(len(name)))
        Image.fromarray(image).save(data / "images" / f"{name}.png")
        with open(data / "test.txt", "a") as file:
            file.write(f"{name}\n")
    set_seed(1)
    net = build_model(MODEL)
    net.train()  # a few batches give the running statistics sense
    for _ in range(20):
        x = np.stack([to_float(read_gray(path))[None, :32, :32]
                      for path in sorted((data / "images").iterdir())])
        net(jt.array(x)).sync()
    save_weights(net, folder / "weights.npz")
    return folder


@pytest.fixture(scope="module")
def net(place):
    return load_model(MODEL, place / "weights.npz")


def predicts(folder, *flags):
    """Runs test.py in this process; returns what it printed."""
    return scripts.prints(scripts.load("test.py").main, folder, *flags)


def sample(height, width, seed=0):
    """One image as a batch, float32 in [0, 1]."""
    return to_float(make_sample(height, width, np.random.default_rng(seed))[0])[None, None]


def test_a_size_that_is_no_multiple_of_8_is_padded_and_cropped(net):
    x = sample(250, 255)
    by_hand = np.zeros((1, 1, 256, 256), np.float32)
    by_hand[:, :, :250, :255] = x
    by_hand[:, :, 250:, :255] = x[:, :, -1:]
    by_hand[:, :, :, 255:] = by_hand[:, :, :, 254:255]
    with jt.no_grad():
        expected = net(jt.array(by_hand)).numpy()
    y = predict(net, x)
    assert y.shape == (1, 250, 255) and y.dtype == np.float32
    np.testing.assert_array_equal(y[0], expected[0, 0, :250, :255])
    assert 0 < y.min() < y.max() < 1


def written(out, dataset, name):
    """The .png and the .mat of a prediction."""
    folder = out / "result" / dataset
    image = Image.open(folder / "img" / MODEL / f"{name}.png")
    assert image.mode == "L"
    mat = loadmat(folder / "mat" / MODEL / f"{name}.mat")
    assert [key for key in mat if not key.startswith("__")] == ["T"]
    return np.asarray(image), mat["T"]


def test_the_test_list_is_predicted(place, net):
    # Without masks: a test list may have none.
    output = scripts.succeeds("test.py", place, "--model_names", MODEL, "--weights",
                              place / "weights.npz", "--batchSize", 2)
    assert "Tiny test: 6 images, 3 sizes from 32x32 to 50x33, 8 bit" in output
    names = (place / "data" / "Tiny" / "test.txt").read_text().split()
    scripts.assert_written(place / "out" / "result" / "Tiny", MODEL, names, ("img", "mat"))
    for name in names:
        image, probability = written(place / "out", "Tiny", name)
        assert probability.dtype == np.float32 and image.dtype == np.uint8
        np.testing.assert_array_equal(image, np.rint(probability * np.float32(255)))
        x = to_float(read_gray(place / "data" / "Tiny" / "images" / f"{name}.png"))
        np.testing.assert_allclose(probability, predict(net, x[None, None])[0], atol=1e-5)
        assert np.ptp(probability) > 1e-3


def test_results_have_the_name_of_the_folder_or_file(tmp_path, monkeypatch):
    (tmp_path / "run.1").mkdir()
    (tmp_path / "run.1" / "x.png").touch()
    assert input_name(tmp_path / "run.1") == "run.1"
    assert input_name(tmp_path / "run.1" / "x.png") == "x"
    monkeypatch.chdir(tmp_path / "run.1")
    assert input_name(".") == "run.1"


def test_where_nothing_was_trained_the_weights_of_the_project_are_taken(place):
    output = predicts(place, "--model_name", MODEL)
    assert (f"{MODEL}: not trained here on Tiny; taking the weights that come with the project, "
            "trained on NUDT-SIRST\n") in output
    name = (place / "data" / "Tiny" / "test.txt").read_text().split()[0]
    net = load_model(MODEL, find_pretrained("NUDT-SIRST", MODEL))
    x = to_float(read_gray(place / "data" / "Tiny" / "images" / f"{name}.png"))
    _, probability = written(place / "out", "Tiny", name)
    np.testing.assert_allclose(probability, predict(net, x[None, None])[0], atol=1e-5)
