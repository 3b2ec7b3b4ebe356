"""Prediction: any size, test.py by its real command line, and what it writes."""

from __future__ import annotations

import numpy as np
import pytest
import scripts
from brightness import GAIN, LEVEL
from PIL import Image
from scipy.io import loadmat

from utils.checkpoint.pretrained import find_pretrained
from utils.data.images import input_name, read_gray, to_float
from utils.data.synthetic import make_sample
from utils.datasets import load_split
from utils.predict import maps
from utils.predict.maps import load_model, predict
from utils.runtime import jt

pytestmark = pytest.mark.usefixtures("cpu")

MODEL = "L2SKNet_UNet"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A test list of images of three sizes, each with a bright target; there are no masks."""
    folder = tmp_path_factory.mktemp("predict")
    data = folder / "data" / "Tiny"
    (data / "images").mkdir(parents=True)
    for index, size in enumerate([(32, 32)] * 3 + [(33, 50), (41, 32), (33, 50)]):
        image, _ = make_sample(*size, np.random.default_rng(index))
        image[10:13, 12:15] = 255
        Image.fromarray(image).save(data / "images" / f"{index}.png")
    (data / "test.txt").write_text("\n".join("012345"))
    return folder


@pytest.fixture(scope="module")
def net(cpu):
    return load_model(MODEL, find_pretrained("NUDT-SIRST", MODEL))


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


def test_the_test_list_is_predicted_with_the_weights_that_come_with_the_project(place, net):
    output = scripts.succeeds("test.py", place, "--model_names", MODEL, "--batchSize", 2)
    assert (f"{MODEL}: not trained here on Tiny; taking the weights that come with the project, "
            "trained on NUDT-SIRST\n") in output
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


def test_a_run_that_is_stopped_leaves_no_maps_of_the_run_before(place, monkeypatch):
    weights = find_pretrained("NUDT-SIRST", MODEL)
    split = load_split(place / "data", "Tiny", "test", masks_required=False)
    out = place / "stopped"
    maps.predict_split(MODEL, weights, split, out)
    mat = out / "result" / "Tiny" / "mat" / MODEL
    (mat / "mine.mat").touch()
    predict_batch, calls = maps.predict, iter((1, 0))

    def stopped(net, x):
        if not next(calls):
            raise KeyboardInterrupt
        return predict_batch(net, x)

    monkeypatch.setattr(maps, "predict", stopped)
    with pytest.raises(KeyboardInterrupt):
        maps.predict_split(MODEL, weights, split, out, batch_size=2)
    assert sorted(path.name for path in mat.iterdir()) == ["0.mat", "1.mat", "mine.mat"]


def test_results_have_the_name_of_the_folder_or_file(tmp_path, monkeypatch):
    (tmp_path / "run.1").mkdir()
    (tmp_path / "run.1" / "x.png").touch()
    assert input_name(tmp_path / "run.1") == "run.1"
    assert input_name(tmp_path / "run.1" / "x.png") == "x"
    monkeypatch.chdir(tmp_path / "run.1")
    assert input_name(".") == "run.1"


def test_a_test_list_with_weights_by_name(place, weights):
    output = scripts.prints(scripts.load("test.py").main, place, "--weights", weights)
    assert f"{MODEL} with {weights}, to " in output and "not trained here" not in output
    x = to_float(read_gray(place / "data" / "Tiny" / "images" / "3.png"))
    _, probability = written(place / "out", "Tiny", "3")
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-GAIN * (x - LEVEL))), atol=1e-4)
