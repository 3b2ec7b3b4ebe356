"""Weights: exact to the bit, refused as a whole when they do not fit, never unpickled."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scripts import ROOT

from model import MODEL_NAMES, build_model
from utils.checkpoint import weights as checkpoint
from utils.checkpoint.weights import (
    find_weights,
    get_weights,
    load_weights,
    read_arrays,
    read_checkpoint,
    read_meta,
    save_weights,
)
from utils.errors import UserError
from utils.optim import Adam
from utils.paths import Paths
from utils.runtime import jt

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(scope="module")
def nets():
    """One network of each name, to be changed by load_weights alone."""
    return {name: build_model(name) for name in MODEL_NAMES}


@pytest.fixture
def net(nets):
    return nets["L2SKNet_1D_FPN"]


def other_weights(net, seed=0):
    """Values for every entry of a network, none of them those it has."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.standard_normal(array.shape).astype(np.float32)
               for name, array in get_weights(net).items()}
    return {name: abs(array) if name.endswith("running_var") else array
            for name, array in weights.items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype == np.float32, name
        assert array.tobytes() == theirs[name].tobytes(), name


def refuses(net, source, *says):
    """load_weights raises with these words in its message, and changes nothing."""
    before = get_weights(net)
    with pytest.raises(UserError) as error:
        load_weights(net, source)
    assert all(part in str(error.value) for part in says), str(error.value)
    assert "\n" not in str(error.value)
    assert_equal(get_weights(net), before)


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_noticed(value):
    layer = jt.nn.Conv(2, 3, 3)
    bias = np.zeros(3, np.float32)
    bias[1] = value
    layer.bias.update(jt.array(bias))
    # From a GPU the sums are fetched, on the CPU the arrays.
    assert checkpoint._sums_are_finite(layer) == checkpoint.all_finite(layer) == np.isfinite(value)


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_round_trip_is_exact(nets, tmp_path, model_name):
    first, second = nets[model_name], build_model(model_name)
    weights = other_weights(first)
    load_weights(first, weights)
    save_weights(first, tmp_path / "w.npz", {"epoch": 3})
    load_weights(second, tmp_path / "w.npz")
    assert_equal(get_weights(second), weights)
    assert read_meta(tmp_path / "w.npz") == {"epoch": 3}
    assert read_arrays(tmp_path / "w.npz").keys() == weights.keys() | {"meta"}


def test_what_resuming_needs_is_kept_apart_from_the_weights(net, tmp_path):
    optimizer = Adam(net.parameters())
    weights = get_weights(net)
    save_weights(net, tmp_path / "w.npz", optimizer=optimizer.state_dict())
    entries = read_arrays(tmp_path / "w.npz").keys() - weights.keys()
    assert entries == {"meta"} | {f"optimizer/{name}" for name in optimizer.state_dict()}
    load_weights(net, tmp_path / "w.npz")
    assert_equal(get_weights(net), weights)


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_entries_that_take_no_part_are_passed_over(nets, model_name):
    net = nets[model_name]
    weights = other_weights(net)
    official = dict(weights)
    for name in weights:
        if name.endswith("running_mean"):
            official[name.replace("running_mean", "num_batches_tracked")] = np.array(9)
        if name.endswith("conv_1xn.weight"):
            c, k = weights[name].shape[0], weights[name].shape[3]
            official[name.replace("conv_1xn", "conv")] = np.ones((c, c, k, k), np.float32)
    dead = [name for name in official if name not in weights and name.endswith(".conv.weight")]
    assert len(dead) == (10 if "1D" in model_name else 0)
    load_weights(net, official)
    assert_equal(get_weights(net), weights)


def test_other_kernels_are_not_passed_over(net, nets):
    kernel = np.ones((16, 16, 3, 3), np.float32)
    unet = nets["L2SKNet_UNet"]
    lacking = other_weights(unet)
    del lacking["contrast0_1.0.conv.weight"]
    refuses(unet, lacking, "missing contrast0_1.0.conv.weight")
    for other, name in ((net, "contrast0_9.0.conv.weight"), (net, "layer0.0.conv.weight"),
                        (unet, "contrast3_0.0.conv.weight")):
        refuses(other, {**other_weights(other), name: kernel}, f"unexpected {name}")


def test_entries_that_do_not_fit_are_named(net, nets):
    name = "head.block.4.weight"
    good = other_weights(net)
    missing = {key: array for key, array in good.items() if key != name}
    refuses(net, missing, f"weights: not the weights of this network (missing {name});")
    refuses(net, {**good, "extra.weight": np.ones(3)}, "unexpected extra.weight")
    refuses(net, {**good, name: good[name].reshape(-1)}, f"{name} is (4,) and not (1, 4, 1, 1)")
    refuses(net, {**good, name: np.full((1, 4, 1, 1), "1")}, f"{name} is of type <U1")
    refuses(net, {**good, name: good[name].astype(complex)}, f"{name} is of type complex128")
    refuses(net, {**good, name: good[name].astype(object)}, f"{name} is of type object")
    for value in (np.nan, -np.inf, 1e300):  # the last is infinite in float32
        refuses(net, {**good, name: np.full((1, 4, 1, 1), value)}, f"{name} is not finite")
    variance = "contrast2_1.1.running_var"
    refuses(net, {**good, variance: -good[variance]}, f"{variance} is below zero")
    refuses(net, {**good, "x\n" * 99: np.ones(3)}, r"unexpected x\nx\n")
    refuses(net, {}, "missing ", "and ", " more")
    for model_name in {*nets} - {"L2SKNet_1D_FPN"}:
        refuses(nets[model_name], good, "weights: not the ", "another model's file?")


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_other_kinds_of_numbers_are_converted(net, dtype):
    weights = {name: np.round(100 * array).astype(dtype)
               for name, array in other_weights(net).items()}
    load_weights(net, weights)
    assert_equal(get_weights(net), {name: array.astype(np.float32)
                                    for name, array in weights.items()})


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "sprung")


@pytest.mark.parametrize("kind", ["entry", "meta"])
def test_a_pickle_is_refused_and_not_executed(net, tmp_path, kind):
    sprung, path = tmp_path / "sprung", tmp_path / "trap.npz"
    np.savez(path, **{**get_weights(net), kind: np.array([Trap(sprung)], object)})
    refuses(net, path, f"{path}: not an .npz file of plain arrays")
    with pytest.raises(UserError, match="plain arrays"):
        read_checkpoint(path)
    with np.load(path, allow_pickle=True) as file:
        assert not sprung.exists() and file[kind].size and sprung.exists()  # it works


def damaged(kind):
    """The content of a file of arrays that is damaged in some way."""
    whole, packed = io.BytesIO(), io.BytesIO()
    np.savez(whole, a=np.zeros(1000))
    np.savez_compressed(packed, a=np.random.default_rng(0).random(1000))
    data, other, noise = whole.getvalue(), packed.getvalue(), bytes(range(100, 200))
    return {"empty": b"", "text": b"no weights at all\n", "cut off": data[:-30],
            "half": data[:1000], "changed": data[:500] + noise + data[600:],
            "changed, compressed": other[:500] + noise + other[600:]}[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "cut off", "half", "changed",
                                  "changed, compressed"])
def test_a_damaged_file_is_refused(net, tmp_path, kind):
    path = tmp_path / "w.npz"
    path.write_bytes(damaged(kind))
    refuses(net, path, f"{path}: not an .npz file of plain arrays, or damaged;")


def test_a_missing_file_is_refused(net, tmp_path):
    refuses(net, tmp_path / "none.npz", f"{tmp_path / 'none.npz'}: no such file;")
    refuses(net, tmp_path, "no such file;")


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    net, path = build_model("L2SKNet_1D_FPN"), tmp_path / "w.npz"
    save_weights(net, path)
    before = path.read_bytes()
    name = "contrast2_1.1.running_var"
    variance = net.state_dict()[name]
    variance.update(jt.array(np.full(variance.shape, np.nan, np.float32)))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: not written, {name} is not"):
        save_weights(net, path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_a_full_disk_is_one_line_and_no_traceback(tmp_path):
    code = """if True:
        import resource, sys
        from model import build_model
        from utils import cli
        from utils.checkpoint.weights import save_weights
        from utils.runtime import start
        start("cpu")
        net = build_model("L2SKNet_1D_FPN")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
        cli.run(lambda: save_weights(net, sys.argv[1]))"""
    path = tmp_path / "w.npz"
    run = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True,
                         text=True)
    assert run.stderr.splitlines()[-1] == f"error: [Errno 27] File too large: '{path}'"
    assert run.returncode == 2 and "Traceback" not in run.stderr and not list(tmp_path.iterdir())


def test_a_file_that_would_fill_the_memory_is_refused(net, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LARGEST", 10**7)
    np.savez_compressed(tmp_path / "w.npz", a=np.zeros(10**7, "u1"), b=np.zeros(10**7, "u1"))
    tracemalloc.start()
    refuses(net, tmp_path / "w.npz", f"{tmp_path / 'w.npz'}: would take 0.0 GB of memory")
    assert tracemalloc.get_traced_memory()[1] < 15e6
    tracemalloc.stop()


@pytest.mark.parametrize("meta", ["[1]", "7", "{", '"text"', "[" * 5000])
def test_meta_data_of_another_kind_are_refused(tmp_path, meta):
    path = tmp_path / "w.npz"
    np.savez(path, a=np.ones(3), meta=np.array(meta))
    for read in (read_meta, read_checkpoint):
        with pytest.raises(UserError, match="not an .npz file of plain arrays, or damaged"):
            read(path)
    assert read_arrays(path)["a"].sum() == 3


def test_the_best_weights_are_found_else_the_last(tmp_path):
    folder = Paths(tmp_path).checkpoints("SET", "M")
    assert folder == tmp_path / "model" / "checkpoints" / "SET" / "M"
    folder.mkdir(parents=True)
    assert find_weights(tmp_path, "SET", "M") is None
    for name in ("last.npz", "best.npz"):
        (folder / name).touch()
        assert find_weights(tmp_path, "SET", "M") == folder / name
