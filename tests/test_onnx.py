"""Networks as .onnx: onnxruntime computes what we do, from a file that says how to use it."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from brightness import save_brightness_weights
from PIL import Image
from scripts import ROOT, needs

from alignment import golden
from model import MODEL_NAMES, build_model
from utils.checkpoint.convert import convert
from utils.checkpoint.pretrained import find_pretrained
from utils.checkpoint.weights import load_weights, save_weights
from utils.data.images import read_gray, to_float
from utils.data.synthetic import make_sample
from utils.errors import UserError
from utils.predict.maps import load_model, predict

pytestmark = pytest.mark.usefixtures("cpu")

needs_onnx = needs("onnx", "onnxruntime", requirements="onnx")

MODEL = "L2SKNet_UNet"
SHIPPED = find_pretrained("NUDT-SIRST", MODEL)
BOUND = 1e-5


@pytest.fixture(scope="module")
def converted(cpu, tmp_path_factory):
    """A folder with the recipe's weights of each network, MODEL.npz, and MODEL.onnx."""
    folder = tmp_path_factory.mktemp("onnx")
    for name in MODEL_NAMES:
        net = build_model(name)
        load_weights(net, golden.weights(golden.load(name)))
        save_weights(net, folder / f"{name}.npz", {"model": name, "dataset": "SET"})
        line = convert(folder / f"{name}.npz", folder / f"{name}.onnx")
        assert line.startswith(f"{folder / name}.onnx: {name}, ")
    return folder


def facts(path):
    """The graph of a file, and what it says about itself."""
    import onnx

    made = onnx.load(path)
    assert [(each.domain, each.version) for each in made.opset_import] == [("", 17)]
    return made, {each.key: each.value for each in made.metadata_props}


def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@needs_onnx
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_onnxruntime_gives_our_output_and_other_runtimes_can_take_the_file(converted, name):
    running = session(converted / f"{name}.onnx")
    net = load_model(name, converted / f"{name}.npz")
    for shape in ((1, 64, 64), (3, 37, 51), (1, 5, 3)):
        x = golden.images(*shape)
        (found,) = running.run(None, {"image": x})
        assert found.dtype == np.float32 and found.shape == x.shape
        ours = predict(net, x)
        assert ours.std() > 0.01
        np.testing.assert_allclose(found[:, 0], ours, rtol=0, atol=BOUND)

    made, texts = facts(converted / f"{name}.onnx")
    constants = {each.name for each in made.graph.initializer}
    assert not {"BatchNormalization", "If", "Loop"} & {node.op_type for node in made.graph.node}
    convolutions = [node for node in made.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 50
    assert all(set(node.input[1:]) <= constants for node in convolutions)
    assert texts.pop("input").startswith("N×1×H×W float32 in [0, 1]") and texts.pop("output")
    assert texts == {"name": name, "training_data": "SET", "threshold": "0.5"}


@needs_onnx
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_file_for_one_size_equals_the_one_for_all(converted, tmp_path, name):
    import onnx

    size, fixed = (40, 72) if "UNet" in name else (37, 51), tmp_path / "fixed.onnx"
    convert(converted / f"{name}.npz", fixed, size=size)
    made, texts = facts(fixed)
    made = onnx.shape_inference.infer_shapes(made, strict_mode=True)
    assert not {"Shape", "Pad", "Slice"} & {node.op_type for node in made.graph.node}
    assert len(made.graph.value_info) == len(made.graph.node) - 1  # all but the output
    for value in (*made.graph.input, *made.graph.value_info, *made.graph.output):
        assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim)
    assert texts["input"].startswith(f"1×1×{size[0]}×{size[1]} float32 in [0, 1]: ")
    x = golden.images(1, *size)
    one, every = (session(path).run(None, {"image": x})[0]
                  for path in (fixed, converted / f"{name}.onnx"))
    assert one.shape == x.shape
    np.testing.assert_allclose(one, every, rtol=0, atol=BOUND)


@needs_onnx
def test_what_cannot_be_written_is_refused_and_leaves_nothing_behind(converted, tmp_path):
    unet = converted / f"{MODEL}.npz"
    np.savez(tmp_path / "w.npz", weight=np.zeros(3, np.float32))
    for says, *arguments in (
            (r"--size 250 321: L2SKNet_UNet takes multiples of 8; take --size 256 328 ",
             unet, tmp_path / "net.onnx", None, (250, 321)),
            (r"--size: .*net\.npz, which takes", unet, tmp_path / "net.npz", None, (256, 256)),
            ("w.npz: not the weights of this network", tmp_path / "w.npz", tmp_path / "net.onnx"),
            ("not the weights of this network", converted / "L2SKNet_FPN.npz",
             tmp_path / "net.onnx", MODEL)):
        with pytest.raises(UserError, match=says):
            convert(*arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


@needs_onnx
@pytest.mark.parametrize("depth", [8, 16])
def test_the_lines_of_the_page_run_without_jittor(tmp_path, depth):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/onnx.md").read_text("utf-8"), re.S)
    (lines,) = (block for block in blocks if "onnxruntime" in block)
    weights = save_brightness_weights(tmp_path / "weights.npz")
    convert(weights, tmp_path / "net.onnx")
    image = make_sample(90, 117, np.random.default_rng(3))[0]
    image[40:43, 60:64] = 250
    Image.fromarray(image if depth == 8 else image.astype(np.uint16) * 257).save(
        tmp_path / "frame.png")
    lines += "\nimport sys\nassert not {'jittor', 'utils', 'model'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, check=True)
    x = to_float(read_gray(tmp_path / "frame.png"))[None, None]
    ours = predict(load_model(MODEL, weights), x)[0] > 0.5
    assert 12 <= ours.sum() < ours.size / 2
    found = np.asarray(Image.open(tmp_path / "targets.png"))
    assert found.dtype == np.uint8 and (found == 255 * ours).all()


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"net\.onnx: needs the package onnx; "
                                        r"pip install -r requirements-onnx\.txt$"):
        convert(SHIPPED, tmp_path / "net.onnx")
    assert not any(tmp_path.iterdir())
