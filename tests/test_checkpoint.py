"""Weights: exact to the bit, refused as a whole when they do not fit, never unpickled."""

from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
import tracemalloc
import zipfile
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


def test_loaded_weights_are_copies_and_can_be_trained(net):
    weights = other_weights(net)
    load_weights(net, weights)
    name = "layer0.0.body.0.weight"
    expected = weights[name].copy()
    weights[name][:] = 7
    np.testing.assert_array_equal(get_weights(net)[name], expected)
    assert [p.is_stop_grad() for p in net.state_dict().values()] == [
        p.is_stop_grad() for p in build_model("L2SKNet_1D_FPN").state_dict().values()]


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


def test_the_kernels_of_the_2d_networks_are_not_passed_over(nets):
    for model_name in ("L2SKNet_UNet", "L2SKNet_FPN"):
        weights = other_weights(nets[model_name])
        del weights["contrast0_1.0.conv.weight"]
        refuses(nets[model_name], weights, "missing contrast0_1.0.conv.weight")


def test_other_unused_kernels_are_unexpected(net, nets):
    kernel = np.ones((16, 16, 3, 3), np.float32)
    refuses(net, {**other_weights(net), "contrast0_9.0.conv.weight": kernel},
            "unexpected contrast0_9.0.conv.weight")
    refuses(net, {**other_weights(net), "layer0.0.conv.weight": kernel},
            "unexpected layer0.0.conv.weight")
    unet = nets["L2SKNet_UNet"]
    refuses(unet, {**other_weights(unet), "contrast3_0.0.conv.weight": kernel},
            "unexpected contrast3_0.0.conv.weight")


def test_entries_that_do_not_fit_are_named(net):
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


def test_weights_of_another_network_are_refused(nets, tmp_path):
    save_weights(nets["L2SKNet_UNet"], tmp_path / "unet.npz")
    for model_name in MODEL_NAMES:
        if model_name != "L2SKNet_UNet":
            refuses(nets[model_name], tmp_path / "unet.npz", f"{tmp_path / 'unet.npz'}: not the ",
                    "another model's file?")


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


@pytest.mark.parametrize("kind", ["entry", "meta", "bare"])
def test_a_pickle_is_refused_and_not_executed(net, tmp_path, kind):
    sprung, path = tmp_path / "sprung", tmp_path / "trap.npz"
    pickle.loads(pickle.dumps(Trap(sprung)))
    sprung.unlink()  # it works

    weights = get_weights(net)
    trap = np.array([Trap(sprung)], object)
    if kind == "bare":
        path.write_bytes(pickle.dumps({**weights, "trap": Trap(sprung)}))
    else:
        np.savez(path, **{**weights, "trap" if kind == "entry" else "meta": trap})
    refuses(net, path, f"{path}: " + ("refused, it holds pathlib.Path.write_text" if kind == "bare"
                                      else "not an .npz file of plain arrays"))
    if kind == "meta":
        with pytest.raises(UserError, match="plain arrays"):
            read_meta(path)
    assert not sprung.exists()


def damaged_files():
    whole = io.BytesIO()
    np.savez(whole, a=np.zeros(1000))
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.random.default_rng(0).random(1000))
    array = io.BytesIO()
    np.save(array, np.zeros(3))

    def changed(buffer):
        data = bytearray(buffer.getvalue())
        data[500:600] = bytes(range(100, 200))
        return bytes(data)

    return {
        "empty": b"", "text": b"no weights at all\n", "cut off": whole.getvalue()[:-30],
        "half": whole.getvalue()[:1000], "changed": changed(whole),
        "changed, compressed": changed(packed), "one array": array.getvalue(),
    }


@pytest.mark.parametrize("kind", damaged_files())
def test_a_damaged_file_is_refused(net, tmp_path, kind):
    path = tmp_path / "w.npz"
    path.write_bytes(damaged_files()[kind])
    refuses(net, path, f"{path}: not an .npz file of plain arrays, or damaged;")


def test_a_missing_file_is_refused(net, tmp_path):
    refuses(net, tmp_path / "none.npz", f"{tmp_path / 'none.npz'}: no such file;")
    refuses(net, tmp_path, "no such file;")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_written(tmp_path, value):
    net, path = build_model("L2SKNet_1D_FPN"), tmp_path / "w.npz"
    save_weights(net, path)
    before = path.read_bytes()
    name = "contrast2_1.1.running_var"
    variance = net.state_dict()[name]
    variance.update(jt.array(np.full(variance.shape, value, np.float32)))
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: not written, {name} is not"):
        save_weights(net, path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_a_write_that_fails_leaves_the_file_before(net, tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    save_weights(net, path)
    before = path.read_bytes()

    def full(file, _):
        with open(file, "wb") as half:
            half.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"{re.escape(str(path))}: no space"):
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


def test_a_file_that_would_fill_the_memory_is_refused(net, tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        with file.open("a.npy", "w") as entry:  # 1.5 MB on the disk
            for _ in range(1500):
                entry.write(bytes(10**6))
    refuses(net, path, f"{path}: would take 1.5 GB of memory")
    tracemalloc.start()
    refuses(net, path, "1.5 GB")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


def test_entries_nobody_asked_for_are_not_looked_at(net, monkeypatch):
    many = {f"extra.{i}": np.ones(1) for i in range(50)}
    looked = []
    monkeypatch.setattr(checkpoint.np, "isfinite", lambda array: looked.append(0) or array == array)
    refuses(net, {**other_weights(net), **many}, "unexpected extra.0")
    assert len(looked) < 50


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
