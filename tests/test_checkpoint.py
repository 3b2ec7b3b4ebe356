"""Weights: exact to the bit, refused as a whole when they do not fit, never unpickled."""

from __future__ import annotations

import io
import re
import resource
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scripts import assert_same_arrays, complaint

from model import MODEL_NAMES, build_model
from utils import runtime
from utils.checkpoint.weights import (
    all_finite,
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


def other_weights(net):
    """Values for every entry of a network, none of them those it has."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(array.shape).astype(np.float32)
               for name, array in get_weights(net).items()}
    return {name: abs(array) if name.endswith("running_var") else array
            for name, array in weights.items()}


def refuses(net, source, *says):
    """load_weights raises with these words in its message, and changes nothing."""
    before = get_weights(net)
    message = complaint(load_weights, net, source)
    assert all(part in message for part in says), message
    assert_same_arrays(get_weights(net), before)


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_round_trip_is_exact(nets, tmp_path, model_name):
    first, second = nets[model_name], build_model(model_name)
    weights, moments = other_weights(first), Adam(first.parameters()).state_dict()
    load_weights(first, weights)
    save_weights(first, tmp_path / "w.npz", {"epoch": 3}, moments)
    load_weights(second, tmp_path / "w.npz")
    assert_same_arrays(get_weights(second), weights)
    assert read_meta(tmp_path / "w.npz") == {"epoch": 3}
    assert read_arrays(tmp_path / "w.npz").keys() == (
        weights.keys() | {"meta"} | {f"optimizer/{name}" for name in moments})


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
    refuses(net, {"meta": np.zeros(1)}, "missing ", "and ", " more")
    refuses(net, {}, "weights: holds no named tensors")
    for model_name in {*nets} - {"L2SKNet_1D_FPN"}:
        refuses(nets[model_name], good, "weights: not the ", "name its model with --model_name")


def test_only_the_unused_kernels_of_the_1d_networks_are_passed_over(net, nets):
    kernel = np.ones((16, 16, 3, 3), np.float32)
    unet = nets["L2SKNet_UNet"]
    lacking = other_weights(unet)
    del lacking["contrast0_1.0.conv.weight"]
    refuses(unet, lacking, "missing contrast0_1.0.conv.weight")
    for other, name in ((net, "contrast0_9.0.conv.weight"), (net, "layer0.0.conv.weight"),
                        (unet, "contrast3_0.0.conv.weight")):
        refuses(other, {**other_weights(other), name: kernel}, f"unexpected {name}")


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_other_kinds_of_numbers_are_converted(net, dtype):
    weights = {name: np.round(100 * array).astype(dtype)
               for name, array in other_weights(net).items()}
    load_weights(net, weights)
    assert_same_arrays(get_weights(net), {name: array.astype(np.float32)
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


def test_a_damaged_or_missing_file_is_refused(net, tmp_path):
    whole, packed = io.BytesIO(), io.BytesIO()
    np.savez(whole, a=np.zeros(1000))
    np.savez_compressed(packed, a=np.random.default_rng(0).random(1000))
    data, other, noise = whole.getvalue(), packed.getvalue(), bytes(range(100, 200))
    path = tmp_path / "w.npz"
    for content in (b"", b"no weights at all\n", data[:-30], data[:1000],
                    data[:500] + noise + data[600:], other[:500] + noise + other[600:]):
        path.write_bytes(content)
        refuses(net, path, f"{path}: not an .npz file of plain arrays, or damaged;")
    refuses(net, tmp_path / "none.npz", f"{tmp_path / 'none.npz'}: no such file;")
    refuses(net, tmp_path, "no such file;")


def test_weights_that_are_not_finite_are_noticed_and_not_written(net, tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    save_weights(net, path)
    before, good = path.read_bytes(), get_weights(net)
    name = "contrast2_1.1.running_var"
    variance = net.state_dict()[name]
    for value in (0, np.nan, np.inf, -np.inf):
        changed = good[name].copy()
        changed[1] = value
        variance.update(jt.array(changed))
        assert all_finite(net) == np.isfinite(value)
        with monkeypatch.context() as patched:  # sums are fetched from a GPU
            patched.setattr(runtime, "on_gpu", lambda: True)
            assert all_finite(net) == np.isfinite(value)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: not written, {name} is not"):
        save_weights(net, path)
    for name in ("w.pth.tar", "w.pth", "w"):
        with pytest.raises(UserError, match=f"{name}: save_weights writes .npz files; convert_"):
            save_weights(net, tmp_path / name)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before
    load_weights(net, good)


def test_a_full_disk_is_one_line_and_leaves_nothing(net, tmp_path):
    path, limits = tmp_path / "w.npz", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            save_weights(net, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value) == f"[Errno 27] File too large: '{path}'"
    assert not list(tmp_path.iterdir())


def test_a_file_that_claims_to_fill_the_memory_is_refused(net, tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, a=np.zeros(10**6, "u1"))
    size = struct.pack("<I", 10**6 + 128)
    assert path.read_bytes().count(size) >= 1  # in the zip's directory at least
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 2**31)))
    tracemalloc.start()
    refuses(net, path, f"{path}: would take 2.1 GB of memory")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("meta", ["[1]", "7", "{", '"text"', "[" * 5000])
def test_meta_data_of_another_kind_are_refused(tmp_path, meta):
    path = tmp_path / "w.npz"
    np.savez(path, a=np.ones(3), meta=np.array(meta))
    for read in (read_meta, read_checkpoint):
        with pytest.raises(UserError, match="not an .npz file of plain arrays, or damaged"):
            read(path)


def test_the_best_weights_are_found_else_the_last(tmp_path):
    folder = Paths(tmp_path).checkpoints("SET", "M")
    folder.mkdir(parents=True)
    assert find_weights(tmp_path, "SET", "M") is None
    for name in ("last.npz", "best.npz"):
        (folder / name).touch()
        assert find_weights(tmp_path, "SET", "M") == folder / name
