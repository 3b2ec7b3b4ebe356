"""Files of PyTorch and Jittor: read as they read them, never executed, written exactly."""

from __future__ import annotations

import functools
import hashlib
import importlib
import io
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from scripts import ROOT, assert_same_arrays, complaint, needs_torch

import convert_weights
from alignment import golden
from model import MODEL_NAMES, build_model
from utils.checkpoint.convert import convert
from utils.checkpoint.torch_files import read_torch_file, write_torch_file
from utils.checkpoint.weights import (
    fitting_weights,
    load_weights,
    official_state_dict,
    read_meta,
    save_weights,
)
from utils.errors import UserError

FIXTURES = ROOT / "tests" / "fixtures"
FILES = ("torch_zip.pth.tar", "torch_legacy.pth")
SLIM = "L2SKNet_1D_FPN"


def assert_equal(ours, theirs):
    """The arrays are equal to the bit, in the same order."""
    assert list(ours) == list(theirs)
    assert_same_arrays(ours, theirs)


@functools.lru_cache(None)
def weights_of(model_name):
    """The recipe's weights of a network, without the unused kernels of the 1-D networks."""
    weights = golden.weights(golden.load(model_name))
    return {name: array for name, array in weights.items()
            if ".conv." not in name or name.replace(".conv.", ".conv_1xn.") not in weights}


def shapes_of(model_name):
    return {name: array.shape for name, array in weights_of(model_name).items()}


# --------------------------------------------------------------------------------- made-up files


class Name(str):
    """A global, "module\\nname", of a module that need not be there."""

    def __call__(self):
        """A pickler asks whether it could be called."""


class Call:
    """A call when it is unpickled, then BUILD with a state if there is one."""

    def __init__(self, function, *arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


class Pickler(pickle._Pickler):
    """Knows `Name`."""

    dispatch = {**pickle._Pickler.dispatch,
                Name: lambda self, name: self.write(f"c{name}\n".encode())}


def pickled(value, protocol=4):
    stream = io.BytesIO()
    Pickler(stream, protocol).dump(value)
    return stream.getvalue()


def write_pickle(path, content):
    path.write_bytes(pickled(content))


def write_jittor(path, content):
    """A file as jittor.save writes it if its name does not end in .pth, .pt or .bin."""
    def variables(value):
        if isinstance(value, dict):
            return {key: variables(each) for key, each in value.items()}
        return Call(Name("jittor\nVar"), value) if isinstance(value, np.ndarray) else value

    code = pickled(variables(content))
    path.write_bytes(code + hashlib.sha1(code).digest() + b"HCAJSLHD")


def write_zip(path, code, storages=(), **options):
    """A file like torch.save's of a pickle."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", code)
        for key, data in enumerate(storages):
            file.writestr(f"archive/data/{key}", data)


def write_legacy(path, code, keys=(), storages=()):
    """A file as torch.save wrote it before PyTorch 1.6."""
    head = b"".join(pickle.dumps(each, 2) for each in (
        0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    path.write_bytes(head + code + pickle.dumps(list(keys), 2) + b"".join(
        struct.pack("<q", len(data) // 4) + data for data in storages))


# --------------------------------------------------------------------------------- what it reads


@pytest.mark.parametrize("name", FILES)
def test_what_torch_saved_is_read(name):
    content = read_torch_file(FIXTURES / name)  # made by torch_fixture.py
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / np.float32(7)
    rounded = base[0].view("u4") + np.uint32(0x7FFF) + (base[0].view("u4") >> 16 & 1)
    expected = {
        "plain": base, "transposed": base.transpose(2, 0, 1), "part": base[1, 1:, ::2],
        "scalar": base[1, 2, 3], "parameter": base[0], "half": base[0].astype("f2"),
        "bfloat16": (rounded & np.uint32(0xFFFF0000)).view("f4"),
        "double": base[0].astype("f8") / 3, "long": np.array(-(2**40)),
        "int": np.array([-(2**20)], "i4"), "short": np.array([-300], "i2"),
        "char": np.array([-3], "i1"), "byte": np.array([200], "u1"),
        "bool": np.array([True, False]), "empty": np.ones((0, 3), "f4"),
    }
    state = content.pop("state_dict")
    assert_equal(state, {name: np.asarray(array) for name, array in expected.items()})
    assert np.shares_memory(state["plain"], state["transposed"])
    assert content.pop("norm")["num_batches_tracked"] == 1
    assert content.pop("optimizer")["param_groups"][0]["betas"] == (0.9, 0.999)
    assert content == {
        "epoch": 7, "losses": [0.5, float("inf"), -1, 2**70, 300, 70000], "mIoU": 0.25, "Fa": 0.5,
        "count": 3, "good": True, "words": ("naïve", None, True, False, b"\x00\xff"),
        "size": (2, 3, 4), "device": "cpu", "dtype": "float32",
    }


def lightning(state):
    """A checkpoint of PyTorch Lightning, with what stands beside the weights."""
    path = Call(Name("pathlib\nPosixPath"), "/", "data")
    namespace = Call(Name("argparse\nNamespace"), state={"lr": 1e-3, "root": path})
    made = Call(Name("copy_reg\n__newobj__"), Name("lightning.fabric.utilities\nAttributeDict"))
    return {
        "epoch": 3, "pytorch-lightning_version": "2.4.0", "state_dict": state,
        "hyper_parameters": {"args": namespace, "loss": Name("losses\nsoft_iou"), "set": {1, 2},
                             "made": made, "when": Call(Name("datetime\ndatetime"), b"\x07\xe8"),
                             (3, "tuple"): frozenset([1]), "bytes": bytearray(b"abc"),
                             "part": Call(Name("functools\npartial"), Name("torch.optim\nAdam"))},
        "callbacks": {"ModelCheckpoint{'monitor': 'mIoU'}": {"best_model_path": path}},
        "optimizer_states": [{"state": {0: {"exp_avg": np.zeros(3)}}, "param_groups": []}],
    }


def checkpoint(state):
    return {"epoch": 400, "state_dict": state, "total_loss": [0.5] * 400}


def averaged(state):
    return {"optimizer": {"state": {0: {"exp_avg": np.zeros(3)}}},
            "ema_state_dict": {"n_averaged": np.array(3), **state}}


WAYS = [
    ("400.pth.tar", write_torch_file, checkpoint, "model."),  # the official Net
    ("400.pth.tar", write_jittor, checkpoint, "model."),
    ("net.pkl", write_jittor, dict, ""),
    ("net.pth", write_torch_file, dict, ""),
    ("net.pth", write_torch_file, lambda state: {
        name: array.astype("f8") for name, array in state.items()}, ""),
    ("net.pt", write_torch_file, averaged, "module."),
    ("net.bin", write_torch_file, lambda state: {"net": state}, "model._orig_mod.module."),
    ("plain.pkl", write_pickle, dict, "student.net."),
    ("last.ckpt", write_pickle, lightning, "net."),
    *((f"last{protocol}.ckpt", lambda path, content, protocol=protocol: write_zip(
        path, pickled(content, protocol)), lightning, "net.") for protocol in (2, 5)),
]


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_checkpoints_as_people_have_them_load(tmp_path, way):
    model_name, (name, write, content, prefix) = MODEL_NAMES[way % 4], WAYS[way]
    weights = weights_of(model_name)
    write(tmp_path / name, content(official_state_dict(weights, prefix)))
    assert_equal(fitting_weights(tmp_path / name, shapes_of(model_name)), weights)


def test_prefixes_that_do_not_fit_are_named(tmp_path):
    def refused(state, *says):
        write_torch_file(tmp_path / "w.pth", state)
        message = complaint(fitting_weights, tmp_path / "w.pth", shapes_of(SLIM))
        assert all(part in message for part in (str(tmp_path / "w.pth"), *says)), message

    name = "layer0.0.body.0.weight"
    good = official_state_dict(weights_of(SLIM), "module.")
    one = {key.replace(f"module.{name}", name): array for key, array in good.items()}
    refused(one, f"w.pth: {name} lacks the prefix module. of the other names")
    refused({**good, "loss.weight": np.ones(3, "f4")}, "loss.weight lacks the prefix module.")
    del good[f"module.{name}"]
    refused(good, f"after the prefix module. (missing {name})")
    refused({f"net.body.{i}": np.ones(3, "f4") for i in range(3)},
            ", its names begin with net.body. (missing", "more")
    refused({"epoch": 3, "state_dict": {}}, "holds no named tensors; save the network's state_dict")


def test_of_several_state_dicts_the_network_s_own_is_taken(tmp_path):
    weights, shapes = weights_of(SLIM), shapes_of(SLIM)
    others = {name: np.zeros_like(array) for name, array in weights.items()}
    more = {f"{i}.weight": np.zeros(1, "f4") for i in range(999)}
    for content in ([3, ("net", {"optimizer": {0: more}, "teacher": more, "any": weights})],
                    {"ema": others, "state_dict": weights},
                    {"ema": {**others, "n_averaged": np.int64(3) * np.ones(1, "i8")},
                     "state_dict": weights}):
        write_torch_file(tmp_path / "w.pth", content)
        assert_equal(fitting_weights(tmp_path / "w.pth", shapes), weights)


@pytest.mark.parametrize("protocol, numpy", [
    (2, b"numpy.core"), (2, b"numpy._core"), (3, b"numpy._core"), (4, b"numpy.core"),
    (5, b"numpy.core")])
def test_numpy_arrays_and_numbers_are_read(tmp_path, protocol, numpy):
    base = np.arange(24, dtype="f4").reshape(2, 3, 4) - np.float32(0.1)
    arrays = {"f4": base, "turned": base.T, "fortran": np.asfortranarray(base[0]),
              "f8": base / 3, "f2": base.astype("f2"), "big": base.astype(">f4"),
              "i8": np.arange(3), "u1": np.array(7, "u1"), "?": np.array([True]),
              "none": np.zeros((0, 3), "f4"), "part": base[:, ::2]}
    content = {"state_dict": arrays, "mIoU": np.float32(0.5), "count": np.int64(3),
               "names": np.array(["a"], object), "c": np.complex64(1), "good": np.bool_(True)}
    write_zip(tmp_path / "w.pth", pickled(content, protocol).replace(b"numpy.core", numpy))
    read = read_torch_file(tmp_path / "w.pth")
    assert (read["mIoU"], read["count"], read["good"]) == (0.5, 3, True)
    assert_equal({name: late.array for name, late in read["state_dict"].items()}, arrays)


def unicode(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
SIX = np.arange(6, dtype="f4").tobytes()
FLOATS = b"((" + unicode("storage") + b"ctorch\nFloatStorage\n" + unicode("0") + unicode("cpu")


def tensor(claimed, offset, size, stride):
    """A pickle of one tensor in float storage 0, which claims to have so many elements."""
    claimed, *place = (pickle.dumps(each, 2)[2:-1] for each in (claimed, offset, size, stride))
    return b"\x80\x02" + TENSOR + FLOATS + claimed + b"tQ" + b"".join(place) + b"\x89}tR."


def test_other_ways_to_write_a_tensor(tmp_path):
    # Jittor's .pth: its storages have numbers for keys.
    write_zip(tmp_path / "w.pth", tensor(6, 1, (2, 2), (3, 1)).replace(unicode("0"), b"K\x00"),
              [SIX])
    assert read_torch_file(tmp_path / "w.pth").tolist() == [[1, 2], [4, 5]]
    # pickle.dump of a tensor: a file in the file.
    write_legacy(tmp_path / "w.pth", FLOATS[1:] + b"K\x06tQ.", ["0"], [SIX])
    storage = Call(Name("torch.storage\n_load_from_bytes"), (tmp_path / "w.pth").read_bytes())
    made = Call(Name("torch._utils\n_rebuild_tensor_v2"), storage, 0, (2, 3), (3, 1), False, {})
    write_pickle(tmp_path / "w.pkl", {"a": made})
    assert read_torch_file(tmp_path / "w.pkl")["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_biases_that_are_missing_everywhere_are_zero(cpu, tmp_path, capsys):
    weights = weights_of(SLIM)
    biases = [name for name in weights if name.endswith(("conv_1xn.bias", "conv_nx1.bias"))]
    slim = {name: weights[name] for name in weights if name not in biases}
    path = tmp_path / "400.pth.tar"
    write_jittor(path, {"state_dict": slim})
    assert convert(path, tmp_path / "w.npz").startswith(f"{tmp_path / 'w.npz'}: {SLIM}, ")
    assert capsys.readouterr().out == (
        f"{path}: no bias in any conv_1xn or conv_nx1, as in a variant of the 1-D networks; they "
        "count as zero\n")
    assert_equal(fitting_weights(tmp_path / "w.npz", shapes_of(SLIM)), {
        name: np.zeros_like(weights[name]) if name in biases else weights[name]
        for name in weights})
    with pytest.raises(UserError, match=f"missing {biases[2]}; .*and 6 more"):
        fitting_weights({**slim, biases[0]: weights[biases[0]]}, shapes_of(SLIM))
    assert capsys.readouterr().out == ""


def test_the_content_of_a_file_counts_and_not_its_name(tmp_path):
    np.savez(tmp_path / "w.npz", **weights_of(SLIM))
    (tmp_path / "w.npz").rename(tmp_path / "w.pth")
    assert_equal(fitting_weights(tmp_path / "w.pth", shapes_of(SLIM)), weights_of(SLIM))
    with pytest.raises(UserError, match="not a file of PyTorch"):
        read_torch_file(tmp_path / "w.pth")
    os.mkfifo(tmp_path / "pipe.pth")  # is not waited for
    with pytest.raises(UserError, match="pipe.pth: no such file"):
        fitting_weights(tmp_path / "pipe.pth", {})


# --------------------------------------------------------------------------------- what it refuses


def stored(*entries):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for entry in entries:
            file.writestr(entry, b"")
    return stream.getvalue()


TENSORS = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
TENSORS = struct.pack("<Q", len(TENSORS)) + TENSORS + bytes(4)
ARCHIVE = "an archive, which is not read; unpack it"


@pytest.mark.parametrize("name, data, says", [
    ("w.safetensors", TENSORS, "safetensors, which is not read; save what safetensors.torch"),
    ("w.pth", TENSORS, "safetensors"), ("w.onnx", b"\x08\x08\x12\x07pytorch", "ONNX"),
    ("w.engine", b"ftrt" + bytes(9), "TensorRT"), ("w.plan", bytes(9), "TensorRT"),
    ("w.h5", b"\x89HDF\r\n\x1a\n", "HDF5 or Keras"),
    ("w.keras", stored("model.weights.h5"), "HDF5 or Keras"),
    ("w.pt", stored("w/data.pkl", "w/constants.pkl", "w/code/x.py"), "TorchScript"),
    ("w.pt2", stored("serialized_exported_program.json"), "a program of torch.export"),
    ("w.zip", stored("best/w.pth.tar"), ARCHIVE), ("w.pth.gz", b"\x1f\x8b\x08", ARCHIVE),
    ("w.pth.tar", bytes(257) + b"ustar" + bytes(250), ARCHIVE),
    ("w.pth", b"<!DOCTYPE html><html>", "a web page"),
    ("w.npy", b"\x93NUMPY\1\0", "an .npy of NumPy's, which is not read; save its arrays under"),
    ("w.ckpt", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
])
def test_formats_that_are_not_read_are_called_by_their_name(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    message = complaint(fitting_weights, tmp_path / name, {})
    assert re.search(f"{name}: .*{says}", message) and "; " in message and message.isprintable()


@pytest.mark.parametrize("name", [*FILES, "jittor.pkl"])
def test_damaged_files_are_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    if name == "jittor.pkl":
        write_jittor(path, {"a": {"b": np.arange(9.0)}, "c": [np.float32(3)]})
    else:
        shutil.copyfile(FIXTURES / name, path)
    data, rng, refused = path.read_bytes(), np.random.default_rng(0), []
    broken = [data[:end] for end in (0, 1, 15, 20, *range(100, len(data) - 1, 97))]
    for _ in range(300):
        changed = np.frombuffer(data, np.uint8).copy()
        changed[rng.integers(0, len(data), 20)] = rng.integers(0, 256, 20)
        broken.append(changed.tobytes())
    for content in broken:
        path.write_bytes(content)
        try:
            read_torch_file(path)
        except UserError as error:
            refused.append(str(error))
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()
    if name == "jittor.pkl":
        assert len(refused) == len(broken) and "its SHA-1 checksum does not match" in str(refused)
    assert len(refused) > 200  # of the others only a number of a tensor has changed


def refused(path, *says):
    message = complaint(read_torch_file, path)
    assert message.startswith(f"{path}: ") and message.isprintable(), message
    assert all(part in message for part in says), message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_calls_are_refused_by_name_and_nothing_runs(tmp_path, protocol):
    sentinel = tmp_path / "sprung"
    text = f"open({str(sentinel)!r}, 'w')"
    shell = Call(os.system, f"touch '{sentinel}'")
    pickle.loads(pickle.dumps(shell, protocol))
    sentinel.unlink()  # it works
    for trap, name in (
        (shell, "posix.system"), (Call(eval, text), "eval"), (Call(exec, text), "exec"),
        (Call(subprocess.Popen, ["touch", str(sentinel)]), ".Popen"),
        (Call(np.load, "x.npy", None, True), "load"),
        (Call(importlib.import_module, "os"), "importlib.import_module"),
        (Call(shutil.rmtree, str(sentinel)), "shutil.rmtree"),
        (Call(functools.partial, os.system, "true"), "posix.system"),
        (Call(Name("torch\nload"), "a"), "torch.load"), (Call(Name("mine\nmake"), 3), "mine.make"),
    ):
        content = {"epoch": 1, "state_dict": {"a": np.zeros(3), "b": [trap]}}
        code = pickled(content, protocol)
        write_zip(tmp_path / "evil.pth", code)
        write_legacy(tmp_path / "old.pth", code)
        write_jittor(tmp_path / "evil.pkl", content)
        for file in ("evil.pth", "old.pth", "evil.pkl"):
            refused(tmp_path / file, "refused, it holds ", name)
    assert not sentinel.exists()


@pytest.mark.parametrize("code, says", [
    (b"(" + unicode("true") + b"ios\nsystem\n.", "INST os system"), (b"\x82\x01.", "EXT1"),
    (b"\x80\x04" + unicode("a\nb\x1b[31m") + unicode("run") + b"\x93)R.", "a\\nb\\x1b[31m.run"),
    (b"c" + b"a" * 600 + b"\nb\n.", "a name that is too long"),
    (b"]K\x01K\x02s.", "a list with keys"), (b"})R.", "a call of a value"),
    (b"(" + unicode("other") + b"NNNNtQ.", "a reference to other things"),
    (tensor(6, 0, (7,), (1,)), "a tensor larger"), (tensor(6, 2**61, (1,), (1,)), "larger than"),
    (tensor(6, -1, (1,), (1,)), "of unknown kind"), (tensor(6, 5, (6,), (-1,)), "of unknown kind"),
    (tensor(6, 0, (10**6, 10**6), (0, 0)), "a tensor larger than its storage"),
    (b"]0" * 10**6 + b"N.", "more opcodes"),
], ids=range(13))
def test_strange_pickles_are_refused_by_name(tmp_path, code, says):
    write_zip(tmp_path / "evil.pth", code, [SIX])
    refused(tmp_path / "evil.pth", says)


def test_sizes_that_a_file_claims_take_no_memory(tmp_path):
    path, numbers = tmp_path / "w.pth", b"\0" * 10**5
    bomb = tensor(25 * 10**9, 0, (25 * 10**9,), (1,))
    tracemalloc.start()
    write_zip(path, bomb, [numbers], compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed or overlapping entries")
    with zipfile.ZipFile(path, "w") as file:  # one entry, named in the directory many times
        file.writestr("archive/data.pkl", b"N.")
        file.writestr("archive/data/0", numbers)
        file.filelist += file.filelist[-1:] * 1000
    refused(path, "compressed or overlapping entries")
    write_legacy(path, bomb)
    refused(path, "damaged")
    write_zip(path, bomb, [numbers])
    refused(path, "damaged")
    for code in (b"\x80\x05\x96" + struct.pack("<Q", 2**40),  # a bytearray, bytes, an integer
                 b"\x80\x04\x8e" + struct.pack("<Q", 2**40),
                 b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1)):
        path.write_bytes(code + b"0.")
        refused(path, "damaged")
    write_zip(path, b"\x80\x02}r\xff\xff\xff\x7f.")  # 2**31 is a place in the memo, not its size
    assert read_torch_file(path) == {}
    text = b"c_codecs\nencode\n" + unicode("a" * 10**5) + unicode("latin1") + b"\x86q\x01R"
    write_zip(path, b"\x80\x02](" + text + b"c_codecs\nencode\nh\x01R" * 1000 + b"e.")
    assert len(read_torch_file(path)) == 1001
    with open(path, "wb") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match="would take 2.1 GB of memory"):
        fitting_weights(path, {})
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("code", [
    b"]" * 200_000 + b"a" * 199_999, b")" + b"\x85" * 200_000, b"}" * 200_000 + b"N",
    b"})" + b"\x85" * 200_000 + b"Ns", b"}q\x01K\x01h\x01s"],
    ids="lists tuples dicts key itself".split())
def test_nesting_does_not_matter(tmp_path, code):
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + code + b".")
    with pytest.raises(UserError, match="w.pkl: holds no named tensors"):
        fitting_weights(tmp_path / "w.pkl", {"a": (1,)})


# --------------------------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def written(cpu, tmp_path_factory):
    """A folder with each network's `weights_of` as .npz, .pth.tar and .pth."""
    folder = tmp_path_factory.mktemp("written")
    for model_name in MODEL_NAMES:
        net = build_model(model_name)
        load_weights(net, weights_of(model_name))
        history = [{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.5, "time": 3.0, "mIoU": 0.25}]
        save_weights(net, folder / f"{model_name}.npz", {"model": model_name, "history": history})
        for ending in (".pth.tar", ".pth"):
            convert(folder / f"{model_name}.npz", folder / f"{model_name}{ending}")
    return folder


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_a_checkpoint_is_as_the_official_net_saves_it_and_converts_back(
        written, tmp_path, model_name):
    for ending in (".pth.tar", ".pth"):
        line = convert(written / f"{model_name}{ending}", tmp_path / "back.npz")
        assert line.startswith(f"{tmp_path / 'back.npz'}: {model_name}, ")  # told by the names
        assert_equal(fitting_weights(tmp_path / "back.npz", shapes_of(model_name)),
                     weights_of(model_name))
    assert read_meta(tmp_path / "back.npz") == {}

    content = read_torch_file(written / f"{model_name}.pth.tar")
    assert list(content) == ["epoch", "state_dict", "total_loss"]
    assert (content["epoch"], content["total_loss"]) == (2, [0.9, 0.5])
    bare = read_torch_file(written / f"{model_name}.pth")
    assert_equal(content["state_dict"], {f"model.{name}": bare[name] for name in bare})
    counts = [name for name in bare if name.endswith("num_batches_tracked")]
    others = {name: array for name, array in bare.items() if name not in counts}
    fixture = golden.load(model_name)
    assert list(others) == list(map(str, fixture["keys"]))
    assert ["x".join(map(str, array.shape)) for array in others.values()] == list(
        map(str, fixture["shapes"]))
    before = dict(zip(list(bare)[1:], bare))
    assert [before[name] for name in counts] == [
        name for name in bare if name.endswith("running_var")]
    assert_equal({name: bare[name] for name in counts}, dict.fromkeys(counts, np.zeros((), "i8")))
    dead = others.keys() - weights_of(model_name).keys()
    assert len(dead) == (10 if "1D" in model_name else 0)
    assert not any(bare[name].any() for name in dead)


def test_epoch_and_losses_come_from_the_source(written, tmp_path):
    path = tmp_path / "v.pth.tar"
    convert(written / f"{SLIM}.pth.tar", path)
    assert path.read_bytes() == (written / f"{SLIM}.pth.tar").read_bytes()
    for beside, epoch, losses in (
            ({"epoch": 7, "total_loss": [0.5, 1, "x", None, True]}, 7, [0.5, 1.0]),
            ({"total_loss": 0.25}, 1, [0.25]),
            ({"epoch": True, "loss": [0.5, 0.4]}, 2, [0.5, 0.4]), ({}, 0, [])):
        write_torch_file(tmp_path / "w.pth", {**beside, "net": weights_of(SLIM)})
        line = convert(tmp_path / "w.pth", path)
        assert line.endswith(f" numbers, epoch {epoch}, {len(losses)} losses")
        content = read_torch_file(path)
        assert (content["epoch"], content["total_loss"]) == (epoch, losses)


READ = """
import sys, numpy, torch

for path in sys.argv[1:]:
    content = torch.load(path, weights_only=True)
    state = content.get("state_dict", content)
    numpy.savez(path + ".npz", **{name: tensor.numpy() for name, tensor in state.items()})
    # What torch makes of it is read back in both formats.
    torch.save(state, path + ".zip.pt")
    torch.save({"net": state}, path + ".old.pt", _use_new_zipfile_serialization=False)
"""


@needs_torch
def test_pytorch_reads_what_is_written(written):
    paths = sorted(written.glob("*.pth*"))
    subprocess.run([sys.executable, "-c", READ, *paths], check=True)
    for path in paths:
        content, model_name = read_torch_file(path), path.name.split(".")[0]
        with np.load(f"{path}.npz") as file:
            assert_equal(dict(file), content.get("state_dict", content))
        for ending in ("zip", "old"):
            assert_equal(fitting_weights(f"{path}.{ending}.pt", shapes_of(model_name)),
                         weights_of(model_name))


def test_the_command_line(written, tmp_path, capsys):
    source, target = written / "L2SKNet_FPN.npz", tmp_path / "new" / "w.pth.tar"
    convert_weights.main([str(source), str(target)])
    assert capsys.readouterr().out.endswith(
        f"{source} -> {target}\n{target}: L2SKNet_FPN, 290 arrays, 1,075,781 numbers, epoch 2, "
        "2 losses\n")
    for words, says in (
        ((target, tmp_path / "w.npz", "--model_name", "L2SKNet_UNet"), "not the weights of this"),
        ((source, tmp_path / "w.h5"), "w.h5: unknown ending; name it .npz, .pth.tar"),
    ):
        with pytest.raises(UserError, match=says):
            convert_weights.main(list(map(str, words)))
    assert not (tmp_path / "w.npz").exists()


def test_weights_of_a_network_that_this_checkout_does_not_have_are_recognised(written, tmp_path):
    with np.load(written / "L2SKNet_FPN.npz") as file:
        np.savez(tmp_path / "mine.npz", **{**file, "meta": np.array('{"model": "MyNet"}')})
    convert_weights.main([str(tmp_path / "mine.npz"), str(tmp_path / "w.pth")])
    assert (tmp_path / "w.pth").is_file()
