"""Files of PyTorch and Jittor: read as they read them, never executed, written exactly."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from alignment import golden
from model import MODEL_NAMES, build_model
from utils.checkpoint import unpickle
from utils.checkpoint.convert import convert
from utils.checkpoint.torch_files import (
    check_format,
    is_torch_file,
    read_torch_file,
    write_torch_file,
)
from utils.checkpoint.weights import (
    find_prefix,
    find_state_dict,
    fitting_weights,
    get_weights,
    load_weights,
    official_state_dict,
    read_meta,
    save_weights,
)
from utils.errors import UserError
from utils.predict.maps import load_model

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
FILES = ("torch_zip.pth.tar", "torch_legacy.pth")
SLIM = "L2SKNet_1D_FPN"
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None,
                                 reason="PyTorch is not installed")


def same(ours, theirs):
    """Whether two arrays are equal to the bit."""
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and (
        ours.tobytes() == theirs.tobytes())


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    assert all(same(ours[name], theirs[name]) for name in ours)


def run(*words):
    """Runs Python in a process of its own; returns its subprocess.CompletedProcess."""
    result = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True,
                            cwd=ROOT)
    assert "Traceback" not in result.stderr, result.stderr
    return result


@functools.lru_cache(None)
def weights_of(model_name):
    """The recipe's weights of a network, without the unused kernels of the 1-D networks."""
    weights = golden.weights(golden.load(model_name))
    return {name: array for name, array in weights.items()
            if name.replace(".conv.", ".conv_1xn.") == name
            or name.replace(".conv.", ".conv_1xn.") not in weights}


def shapes_of(model_name):
    return {name: array.shape for name, array in weights_of(model_name).items()}


def official(model_name, prefix="model."):
    """A state_dict of a network as the official one has it."""
    return official_state_dict(weights_of(model_name), prefix)


# --------------------------------------------------------------------------------- strange files


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


def variable(array):
    """A variable of Jittor."""
    return Call(Name("jittor\nVar"), array)


class Pickler(pickle._Pickler):
    """Knows `Name`; with `numpy2` it names NumPy's functions as NumPy 2 does."""

    dispatch = {**pickle._Pickler.dispatch,
                Name: lambda self, name: self.write(f"c{name}\n".encode())}
    numpy2 = False

    def reducer_override(self, value):
        if not (self.numpy2 and isinstance(value, (np.ndarray, np.generic))):
            return NotImplemented
        function, *rest = value.__reduce_ex__(self.proto)
        module = function.__module__.replace("numpy.core", "numpy._core")
        return (Name(f"{module}\n{function.__name__}"), *rest)


def pickled(value, protocol=4, numpy2=False):
    stream = io.BytesIO()
    pickler = Pickler(stream, protocol)
    pickler.numpy2 = numpy2
    pickler.dump(value)
    return stream.getvalue()


def write_jittor(path, content):
    """A file as jittor.save writes it if its name does not end in .pth, .pt or .bin."""
    code = pickled(content)
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


@pytest.fixture(scope="module", params=["checked in", pytest.param("new", marks=needs_torch)])
def folder(request, tmp_path_factory):
    """The files of tests/fixtures, or the same made by the PyTorch that is installed."""
    if request.param == "checked in":
        return FIXTURES
    place = tmp_path_factory.mktemp("torch")
    assert run("tests/torch_fixture.py", place).returncode == 0
    return place


@pytest.mark.parametrize("name", FILES)
def test_what_torch_saved_is_read(folder, name):
    content = read_torch_file(folder / name)
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
    state = content["state_dict"]
    assert list(state) == list(expected)
    for name, array in expected.items():
        assert same(state[name], np.asarray(array)), name
    assert all(np.shares_memory(state["plain"], state[name])
               for name in ("transposed", "part", "scalar", "parameter"))
    assert type(content["norm"]) is dict and content["norm"]["num_batches_tracked"] == 1
    assert content["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.999)
    del content["state_dict"], content["norm"], content["optimizer"]
    assert content == {
        "epoch": 7, "losses": [0.5, float("inf"), -1, 2**70, 300, 70000], "mIoU": 0.25, "Fa": 0.5,
        "count": 3, "good": True, "words": ("naïve", None, True, False, b"\x00\xff"),
        "size": (2, 3, 4), "device": "cpu", "dtype": "float32",
    }


@pytest.mark.parametrize("prefix", [
    "", "module.", "model.", "_orig_mod.", "model._orig_mod.module.", "student.net."])
@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_the_prefix_of_wrappers_is_taken_off(tmp_path, model_name, prefix):
    write_torch_file(tmp_path / "400.pth.tar", {
        "epoch": 400, "state_dict": official(model_name, prefix), "total_loss": [0.5] * 400})
    assert_equal(fitting_weights(tmp_path / "400.pth.tar", shapes_of(model_name)),
                 weights_of(model_name))


def test_prefixes_that_do_not_fit_are_named(tmp_path):
    def refused(state, *says):
        write_torch_file(tmp_path / "w.pth", state)
        with pytest.raises(UserError) as error:
            fitting_weights(tmp_path / "w.pth", shapes_of(SLIM))
        assert all(part in str(error.value) for part in (str(tmp_path / "w.pth"), *says)), error

    name = "layer0.0.body.0.weight"
    good = official(SLIM, "module.")
    one = {key.replace(f"module.{name}", name): array for key, array in good.items()}
    refused(one, f"w.pth: {name} lacks the prefix module. of the other names")
    refused({**good, "loss.weight": np.ones(3, "f4")}, "loss.weight lacks the prefix module.")
    del good[f"module.{name}"]
    refused(good, f"after the prefix module. (missing {name})")
    refused({f"net.body.{i}": np.ones(3, "f4") for i in range(3)},
            ", its names begin with net.body. (missing", "more")
    assert find_prefix(["a.b.x", "a.b.y.z", "a.x"], ["x", "y.z"]) == ("a.b.", 2)


def test_the_state_dict_is_found_wherever_it_lies():
    a, b = np.zeros(1), np.ones(1)
    names = {"x.weight", "x.bias"}
    good = {"x.weight": a, "x.bias": b}
    assert find_state_dict(good, names) == good
    assert find_state_dict({**good, "epoch": 3}, names) == good
    many = {str(i): a for i in range(9)}
    moments = {"state": {0: {"exp_avg": a, "step": b}}}
    content = {"optimizer": moments, "teacher": many, "any": {"net": good}, "loss": a}
    assert find_state_dict(content, names) == good
    assert find_state_dict([3, ("net", content)], names) == good
    wrapped = {f"module.{key}": value for key, value in good.items()}
    assert find_state_dict({"teacher": many, "model": wrapped}, names) == wrapped
    other = dict.fromkeys(good, b)
    assert find_state_dict({"ema": other, "state_dict": good}, names) == good
    loop = {"epoch": 1}
    loop["self"] = loop
    assert find_state_dict(loop, names) == find_state_dict([1], names) == {}


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_checkpoints_of_jittor_load(tmp_path, model_name):
    weights = weights_of(model_name)
    state = {f"model.{name}": variable(array) for name, array in weights.items()}
    path = tmp_path / "400.pth.tar"
    write_jittor(path, {"epoch": 400, "state_dict": state, "total_loss": [0.5]})
    assert is_torch_file(path)
    assert_equal(fitting_weights(path, shapes_of(model_name)), weights)
    write_jittor(tmp_path / "net.pkl", {name: variable(array) for name, array in weights.items()})
    (tmp_path / "plain.pkl").write_bytes(pickled(weights))
    for name in ("net.pkl", "plain.pkl"):
        assert_equal(fitting_weights(tmp_path / name, shapes_of(model_name)), weights)

    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    for broken, says in ((data, "its SHA-1 checksum does not match"),
                         (path.read_bytes()[:-9], "it goes on after its end"),
                         (path.read_bytes()[:-40], "damaged")):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=f"400.pth.tar: .*{says}"):
            fitting_weights(path, shapes_of(model_name))


def test_a_tensor_in_a_pickle_is_a_file_in_the_file(tmp_path):
    write_legacy(tmp_path / "w.pth", FLOATS[1:] + b"K\x06tQ.", ["0"], [SIX])
    storage = Call(Name("torch.storage\n_load_from_bytes"), (tmp_path / "w.pth").read_bytes())
    made = Call(Name("torch._utils\n_rebuild_tensor_v2"), storage, 0, (2, 3), (3, 1), False, {})
    (tmp_path / "w.pkl").write_bytes(pickled({"a": made}))
    assert read_torch_file(tmp_path / "w.pkl")["a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_jittor_writes_for_pytorch_is_read(tmp_path):
    """Its storages have numbers for keys."""
    code = tensor(6, 1, (2, 2), (3, 1)).replace(unicode("0"), b"K\x00")
    write_zip(tmp_path / "w.pth", code, [SIX])
    assert read_torch_file(tmp_path / "w.pth").tolist() == [[1, 2], [4, 5]]


@pytest.mark.parametrize("numpy2", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_arrays_and_numbers_are_read(tmp_path, protocol, numpy2):
    base = np.arange(24, dtype="f4").reshape(2, 3, 4) - np.float32(0.1)
    arrays = {"f4": base, "turned": base.T, "fortran": np.asfortranarray(base[0]),
              "f8": base / 3, "f2": base.astype("f2"), "big": base.astype(">f4"),
              "i8": np.arange(3), "u1": np.array(7, "u1"), "?": np.array([True]),
              "none": np.zeros((0, 3), "f4"), "part": base[:, ::2]}
    content = {"state_dict": arrays, "mIoU": np.float32(0.5), "count": np.int64(3),
               "names": np.array(["a"], object), "c": np.complex64(1), "good": np.bool_(True)}
    code = pickled(content, protocol, numpy2)
    assert (b"numpy._core" in code) == numpy2 and (b"numpy.core" in code) != numpy2
    (tmp_path / "w.pkl").write_bytes(code)
    write_zip(tmp_path / "w.pth", code)
    for name in ("w.pkl", "w.pth"):
        read = read_torch_file(tmp_path / name)
        assert (read["mIoU"], read["count"], read["good"]) == (0.5, 3, True)
        found = find_state_dict(read, arrays)
        assert list(found) == list(arrays)
        assert all(same(found[key], arrays[key]) for key in arrays)


def lightning():
    """What stands beside the weights in a checkpoint of PyTorch Lightning."""
    path = Call(Name("pathlib\nPosixPath"), "/", "data")
    namespace = Call(Name("argparse\nNamespace"), state={"lr": 1e-3, "root": path})
    made = Call(Name("copy_reg\n__newobj__"), Name("lightning.fabric.utilities\nAttributeDict"))
    return {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"args": namespace, "loss": Name("losses\nsoft_iou"), "set": {1, 2},
                             "made": made, "when": Call(Name("datetime\ndatetime"), b"\x07\xe8"),
                             (3, "tuple"): frozenset([1]), "bytes": bytearray(b"abc"),
                             "part": Call(Name("functools\npartial"), Name("torch.optim\nAdam"))},
        "callbacks": {"ModelCheckpoint{'monitor': 'mIoU'}": {"best_model_path": path}},
        "optimizer_states": [{"state": {0: {"exp_avg": np.zeros(3)}}, "param_groups": []}],
        "loops": {"fit_loop": {"state_dict": {}}},
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_stands_beside_the_weights_is_passed_over(tmp_path, protocol):
    content = {**lightning(), "state_dict": official(SLIM)}
    write_zip(tmp_path / "last.ckpt", pickled(content, protocol))
    (tmp_path / "last.pkl").write_bytes(pickled(content, protocol))
    for name in ("last.ckpt", "last.pkl"):
        assert_equal(fitting_weights(tmp_path / name, shapes_of(SLIM)), weights_of(SLIM))
    made = io.BytesIO(b"\x80\x02cargparse\nNamespace\n)\x81}" + unicode("a") + b"Nsb.")
    assert vars(unpickle.unpickle(made)) == {"name": "argparse.Namespace", "function": False}


@pytest.mark.parametrize("key", ["model_state_dict", "net", "model", "weights", "ema_state_dict"])
@pytest.mark.parametrize("kind", ["f8", "f2"])
def test_checkpoints_of_other_keys_and_precision_load(tmp_path, kind, key):
    weights = {name: array.astype(kind) for name, array in weights_of(SLIM).items()}
    content = {"epoch": 9, "optimizer": {"state": {0: {"exp_avg": np.zeros(3)}}},
               key: {"n_averaged": np.array(3),
                     **{f"module.{name}": array for name, array in weights.items()}}}
    write_torch_file(tmp_path / "w.pt", content)
    assert_equal(fitting_weights(tmp_path / "w.pt", shapes_of(SLIM)),
                 {name: array.astype("f4") for name, array in weights.items()})


def test_biases_that_are_missing_everywhere_are_zero(cpu, tmp_path, capsys):
    weights = weights_of(SLIM)
    biases = [name for name in weights if name.endswith(("conv_1xn.bias", "conv_nx1.bias"))]
    assert len(biases) == 20
    slim = {name: variable(weights[name]) for name in weights if name not in biases}
    path = tmp_path / "400.pth.tar"
    write_jittor(path, {"state_dict": slim})
    line = convert(path, tmp_path / "w.npz")
    assert line.startswith(f"{tmp_path / 'w.npz'}: {SLIM}, ")
    assert capsys.readouterr().out == (
        f"{path}: no bias in any conv_1xn or conv_nx1, as in a variant of the 1-D networks; they "
        "count as zero\n")
    zeros = {name: np.zeros_like(weights[name]) if name in biases else weights[name]
             for name in weights}
    assert_equal(fitting_weights(tmp_path / "w.npz", shapes_of(SLIM)), zeros)
    assert capsys.readouterr().out == ""

    write_jittor(path, {"state_dict": {**slim, biases[0]: variable(weights[biases[0]])}})
    with pytest.raises(UserError, match=f"missing {biases[2]}; .*and 6 more"):
        fitting_weights(path, shapes_of(SLIM))
    # Of the others none is left out anywhere.
    unet = {name: array for name, array in weights_of("L2SKNet_UNet").items()
            if not name.endswith("conv.0.bias")}
    with pytest.raises(UserError, match="missing Conv1.conv.0.bias"):
        fitting_weights(unet, shapes_of("L2SKNet_UNet"))
    assert capsys.readouterr().out == ""


def test_formats_that_are_not_read_are_called_by_their_name(tmp_path):
    def stored(*entries):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            for entry in entries:
                file.writestr(entry, b"")
        return stream.getvalue()

    tensors = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    tensors = struct.pack("<Q", len(tensors)) + tensors + bytes(4)
    archive = "an archive, which is not read; unpack it"
    for name, data, says in (
        ("w.safetensors", tensors, "safetensors, which is not read; save what safetensors.torch"),
        ("w.pth", tensors, "safetensors"), ("w.onnx", b"\x08\x08\x12\x07pytorch", "ONNX"),
        ("w.engine", b"ftrt" + bytes(9), "TensorRT"), ("w.plan", bytes(9), "TensorRT"),
        ("w.h5", b"\x89HDF\r\n\x1a\n", "HDF5 or Keras"),
        ("w.keras", stored("model.weights.h5"), "HDF5 or Keras"),
        ("w.pt", stored("w/data.pkl", "w/constants.pkl", "w/code/x.py"), "TorchScript"),
        ("w.pt2", stored("serialized_exported_program.json"), "a program of torch.export"),
        ("w.zip", stored("best/w.pth.tar"), archive), ("w.pth.gz", b"\x1f\x8b\x08", archive),
        ("w.pth.tar", bytes(257) + b"ustar" + bytes(250), archive),
        ("w.pth", b"<!DOCTYPE html><html>", "a web page"),
        ("w.ckpt", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"{name}: .*{says}") as error:
            fitting_weights(path, {})
        assert "; " in str(error.value) and "\n" not in str(error.value)
    for name in FILES:
        check_format(FIXTURES / name)


# --------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_is_refused_in_one_line(tmp_path, name):
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    for end in [0, 1, 15, 20, *range(100, len(data) - 1, 97)]:
        path.write_bytes(data[:end])
        assert is_torch_file(path)
        with pytest.raises(UserError, match="not a file of PyTorch or Jittor, or damaged") as error:
            read_torch_file(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*FILES, "jittor.pkl"])
def test_a_damaged_file_raises_nothing_but_a_user_error(tmp_path, name):
    data = pickled({"a": {"b": variable(np.arange(9.0))}, "c": [np.float32(3)]}) if (
        name == "jittor.pkl") else (FIXTURES / name).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 20):
            broken[place] = rng.integers(256)
        (tmp_path / name).write_bytes(broken)
        try:
            read_torch_file(tmp_path / name)
        except UserError as error:
            assert "\n" not in str(error) and str(error).isprintable()
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("place", [6, 8, 42])  # version, flags (names in UTF-8), start of entry
def test_a_damaged_directory_of_a_zip_is_refused(tmp_path, place):
    data = bytearray((FIXTURES / "torch_zip.pth.tar").read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + place : start + place + 4] = b"\xff" * 4
    data[start + 50] = 0xff  # in the name: no UTF-8
    path = tmp_path / "w.pth.tar"
    path.write_bytes(data)
    assert is_torch_file(path)
    with pytest.raises(UserError, match="w.pth.tar: .*(not a file of PyTorch|refused)"):
        load_weights(build_model(SLIM), path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    assert is_torch_file(tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth: no such file"):
        fitting_weights(tmp_path / "w.pth", {})


def test_the_content_of_a_file_counts_and_not_its_name(tmp_path):
    path = tmp_path / "w.pth"
    np.savez(tmp_path / "w.npz", **weights_of(SLIM))
    os.replace(tmp_path / "w.npz", path)
    assert not is_torch_file(path)
    assert_equal(fitting_weights(path, shapes_of(SLIM)), weights_of(SLIM))
    with pytest.raises(UserError, match="not a file of PyTorch"):
        read_torch_file(path)


def refused(path, *says):
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    message = str(error.value)
    assert message.startswith(f"{path}: refused, it holds ") and message.isprintable(), message
    assert all(part in message for part in says), message


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_calls_are_refused_by_name_and_nothing_runs(tmp_path, protocol):
    sentinel = tmp_path / "sprung"
    text = f"open({str(sentinel)!r}, 'w')"
    shell = Call(os.system, f"touch '{sentinel}'")
    pickle.loads(pickle.dumps(shell, protocol))
    sentinel.unlink()  # it works
    for trap, name in (
        (shell, "posix.system"),
        (Call(eval, text), "eval"),
        (Call(exec, text), "exec"),
        (Call(subprocess.Popen, ["touch", str(sentinel)]), ".Popen"),
        (Call(np.load, "x.npy", None, True), "load"),
        (Call(importlib.import_module, "os"), "importlib.import_module"),
        (Call(shutil.rmtree, str(sentinel)), "shutil.rmtree"),
        (Call(Name("torch.hub\nload"), "a/b"), "torch.hub.load"),
        (Call(Name("torch\nload"), "a"), "torch.load"),
        (Call(Name("mine\nmake"), 3), "mine.make"),
    ):
        content = {"epoch": 1, "state_dict": {"a": np.zeros(3), "b": [trap]}}
        code = pickled(content, protocol)
        write_zip(tmp_path / "evil.pth", code)
        write_legacy(tmp_path / "old.pth", code)
        write_jittor(tmp_path / "evil.pkl", content)
        for file in ("evil.pth", "old.pth", "evil.pkl"):
            refused(tmp_path / file, name)
    assert not sentinel.exists()


def unicode(text):
    return b"X" + struct.pack("<I", len(text)) + text.encode()


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
SIX = np.arange(6, dtype="f4").tobytes()
FLOATS = b"((" + unicode("storage") + b"ctorch\nFloatStorage\n" + unicode("0") + unicode("cpu")


def tensor(claimed, offset, size, stride):
    """A pickle of one tensor in float storage 0, which claims to have so many elements."""
    claimed, *place = (pickle.dumps(each, 2)[2:-1] for each in (claimed, offset, size, stride))
    return b"\x80\x02" + TENSOR + FLOATS + claimed + b"tQ" + b"".join(place) + b"\x89}tR."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(tR"
FLOAT8 = b"cnumpy\ndtype\n" + unicode("f8") + b"\x85R"
STRANGE = {
    "attribute of an allowed name": (
        b"\x80\x04" + unicode("collections") + unicode("OrderedDict.__init__.x")
        + b"\x93)R.", "collections.OrderedDict.__init__.x"),
    "a name with control characters": (
        b"\x80\x04" + unicode("a\nb\x1b[31m") + unicode("c") + b"\x93)R.", "a\\nb\\x1b[31m.c"),
    "old instance": (b"(" + unicode("true") + b"ios\nsystem\n.", "INST os system"),
    "old object": (b"(cos\nsystem\n" + unicode("true") + b"o.", "OBJ"),
    "new object of a function": (TENSOR + b")\x81.", "a new object of a value"),
    "extension": (b"\x82\x01.", "EXT1"),
    "text reference": (b"Pposix.system\n.", "PERSID posix.system"),
    "list as dict": (b"]K\x01K\x02s.", "a list with keys"),
    "tensor as dict": (tensor(6, 0, (2, 3), (3, 1))[:-1] + b"K\x00K\x02s.", "a ndarray with keys"),
    "append to a tensor": (tensor(6, 0, (2, 3), (3, 1))[:-1] + b"K\x00a.", "a ndarray to append"),
    "call a dict": (b"})R.", "a call of a value"),
    "tuples of tuples as a key": (b"})\x85\x85Ns.", "keys of type tuple"),
    "bytes by another codec": (
        b"c_codecs\nencode\n" + unicode("a") + unicode("rot13") + b"\x86R.", "encoded text"),
    "bytes many times": (
        b"\x80\x02]c_codecs\nencode\n" + unicode("a" * 99) + unicode("latin1") + b"\x86q\x01R0"
        + b"c_codecs\nencode\nh\x01R" * 9 + b".", "more bytes than the file has"),
    "array without a shape": (ARRAY + b"(" + FLOAT8 + b"\x89tb.", "a NumPy array of unknown kind"),
    "array of too few": (ARRAY + b"(K\x01K\x09\x85" + FLOAT8 + b"\x89C\x08" + b"8" * 8 + b"tb.",
                         "a NumPy array of another size"),
    "other reference": (b"(" + unicode("other") + b"NNNNtQ.", "a reference to other things"),
    "past the storage": (tensor(6, 0, (7,), (1,)), "a tensor larger than its storage"),
    "stride past the storage": (tensor(6, 0, (2, 2), (5, 1)), "a tensor larger"),
    "offset past the storage": (tensor(6, 2**61, (1,), (1,)), "a tensor larger"),
    "offset before the storage": (tensor(6, -1, (1,), (1,)), "a tensor of unknown kind"),
    "negative stride": (tensor(6, 5, (6,), (-1,)), "a tensor of unknown kind"),
    "one element a million times": (tensor(6, 0, (10**6, 10**6), (0, 0)), "a tensor larger"),
    "fewer strides": (tensor(6, 0, (2, 3), (1,)), "a tensor of unknown kind"),
    "negative storage": (tensor(-6, 0, (2, 3), (3, 1)), "a storage of unknown kind"),
    "tensor as storage": (
        b"\x80\x02" + TENSOR + b"(" + tensor(6, 0, (6,), (0,))[2:-1]
        + b"K\x00K\x06\x85K\x01\x85\x89}tR.", "a tensor of unknown kind"),
    "a long name": (b"c" + b"a" * 600 + b"\nb\n.", "a name that is too long"),
    "many arguments": (b"cmine\nMake\n(" + b"N" * 99 + b"tR.", "too many arguments"),
    "a million opcodes": (b"]0" * 10**6 + b"N.", "more opcodes"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_pickles_are_refused_by_name(tmp_path, kind):
    code, says = STRANGE[kind]
    write_zip(tmp_path / "evil.pth", code, [SIX])
    refused(tmp_path / "evil.pth", says)


def test_the_state_of_a_function_is_not_set(tmp_path):
    good = tensor(6, 1, (2, 2), (3, 1))
    for state in (b"}" + unicode("__wrapped__") + b"K\x01s", b"N}" + unicode("__defaults__")
                  + b"K\x01\x85s\x86"):
        write_zip(tmp_path / "w.pth", b"\x80\x02" + TENSOR + state + b"b0" + good[2:], [SIX])
        assert read_torch_file(tmp_path / "w.pth").tolist() == [[1, 2], [4, 5]]
        assert vars(unpickle._tensor) == {}
        assert unpickle._tensor.__defaults__ == (False, None, None)


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
    write_legacy(tmp_path / "old.pth", bomb)
    write_zip(path, bomb, [numbers])
    for name, code in (("bytearray.pkl", b"\x80\x05\x96" + struct.pack("<Q", 2**40)),
                       ("bytes.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 2**40)),
                       ("int.pkl", b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1))):
        (tmp_path / name).write_bytes(code + b"0.")
    for each in (path, *(tmp_path / name for name in (
            "old.pth", "bytearray.pkl", "bytes.pkl", "int.pkl"))):
        with pytest.raises(UserError, match="damaged"):
            read_torch_file(each)
    write_zip(path, b"\x80\x02}r\xff\xff\xff\x7f.")  # 2**31 is a place in the memo, not its size
    assert read_torch_file(path) == {}
    with open(path, "wb") as file:
        file.truncate(2**31)
    with pytest.raises(UserError, match="would take 2.1 GB of memory"):
        fitting_weights(path, {})
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_nesting_does_not_matter(tmp_path):
    depth = 200_000
    for code in (b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".",
                 b"\x80\x02)" + b"\x85" * depth + b".",
                 b"\x80\x02" + b"}" * depth + b"N." ):
        (tmp_path / "w.pkl").write_bytes(code)
        with pytest.raises(UserError, match="w.pkl: holds no named tensors"):
            fitting_weights(tmp_path / "w.pkl", {"a": (1,)})


# --------------------------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def written(cpu, tmp_path_factory):
    """Of each network the recipe's weights as .npz, .pth.tar and .pth; folder, model → weights."""
    folder, weights = tmp_path_factory.mktemp("written"), {}
    for model_name in MODEL_NAMES:
        net = build_model(model_name)
        load_weights(net, weights_of(model_name))
        weights[model_name] = get_weights(net)
        history = [{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.5, "time": 3.0, "mIoU": 0.25,
                                               "Pd": None}]
        save_weights(net, folder / f"{model_name}.npz", {"model": model_name, "history": history})
        for ending in (".pth.tar", ".pth"):
            convert(folder / f"{model_name}.npz", folder / f"{model_name}{ending}")
    return folder, weights


def loaded(model_name, path):
    """The weights of a network that has read them from a file."""
    net = build_model(model_name)
    load_weights(net, path)
    return get_weights(net)


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_the_round_trip_is_exact(written, tmp_path, model_name):
    folder, weights = written
    for ending in (".pth.tar", ".pth"):
        line = convert(folder / f"{model_name}{ending}", tmp_path / "back.npz")
        assert line.startswith(f"{tmp_path / 'back.npz'}: {model_name}, ")  # told by the names
        for path in (tmp_path / "back.npz", folder / f"{model_name}{ending}"):
            assert_equal(loaded(model_name, path), weights[model_name])
    assert read_meta(tmp_path / "back.npz") == {}
    convert(folder / f"{model_name}.pth.tar", tmp_path / "again.pth.tar")
    assert (tmp_path / "again.pth.tar").read_bytes() == (
        folder / f"{model_name}.pth.tar").read_bytes()


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_a_checkpoint_is_as_the_official_net_saves_it(written, model_name):
    folder, weights = written
    fixture = golden.load(model_name)
    content = read_torch_file(folder / f"{model_name}.pth.tar")
    assert list(content) == ["epoch", "state_dict", "total_loss"]
    assert (content["epoch"], content["total_loss"]) == (2, [0.9, 0.5])
    bare = read_torch_file(folder / f"{model_name}.pth")
    assert_equal(content["state_dict"], {f"model.{name}": bare[name] for name in bare})
    counts = [name for name in bare if name.endswith("num_batches_tracked")]
    assert [name for name in bare if name not in counts] == list(map(str, fixture["keys"]))
    assert ["x".join(map(str, array.shape)) for name, array in bare.items()
            if name not in counts] == list(map(str, fixture["shapes"]))
    before = dict(zip(list(bare)[1:], bare))
    assert [before[name] for name in counts] == [
        name for name in bare if name.endswith("running_var")]
    assert all(same(bare[name], np.zeros((), "i8")) for name in counts)
    dead = bare.keys() - weights[model_name].keys() - set(counts)
    assert len(dead) == (10 if "1D" in model_name else 0)
    assert all(not bare[name].any() for name in dead)


def test_epoch_and_losses_come_from_the_source(cpu, tmp_path):
    for beside, epoch, losses in (
        ({"epoch": 7, "total_loss": [0.5, 1, "x", None, True]}, 7, [0.5, 1.0]),
        ({"total_loss": 0.25}, 1, [0.25]), ({"epoch": True, "loss": [0.5, 0.4]}, 2, [0.5, 0.4]),
        ({}, 0, []),
    ):
        write_torch_file(tmp_path / "w.pth", {**beside, "net": weights_of(SLIM)})
        line = convert(tmp_path / "w.pth", tmp_path / "v.pth.tar")
        assert line.endswith(f" numbers, epoch {epoch}, {len(losses)} losses")
        content = read_torch_file(tmp_path / "v.pth.tar")
        assert (content["epoch"], content["total_loss"]) == (epoch, losses)


READ = """
import sys
import numpy as np
import torch

for path in sys.argv[1:]:
    content = torch.load(path, weights_only=True)
    state = content.get("state_dict", content)
    print(type(content).__name__, type(state).__name__, *(
        type(content[name]).__name__ for name in content if state is not content))
    np.savez(path + ".npz", **{name: tensor.numpy() for name, tensor in state.items()})
    # What torch makes of it is read back in both formats.
    torch.save(state, path + ".zip.pt")
    torch.save({"net": state}, path + ".old.pt", _use_new_zipfile_serialization=False)
"""


@needs_torch
def test_pytorch_reads_what_is_written(written):
    folder, weights = written
    paths = sorted(folder.glob("*.pth*"))
    result = run("-c", READ, *paths)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == [
        "dict OrderedDict int OrderedDict list" if path.suffix == ".tar" else
        "OrderedDict OrderedDict" for path in paths]
    for path in paths:
        content = read_torch_file(path)
        with np.load(f"{path}.npz") as file:
            assert_equal(dict(file), content.get("state_dict", content))
        model_name = path.name.split(".")[0]
        for ending in ("zip", "old"):
            assert is_torch_file(f"{path}.{ending}.pt")
            assert_equal(loaded(model_name, f"{path}.{ending}.pt"), weights[model_name])


def test_arrays_of_all_types_survive_writing(tmp_path):
    content = {kind: (np.arange(6).reshape(2, 3) % 2).astype(kind).T
               for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")}
    content.update(scalar=np.float32(3), empty=np.zeros((0, 2)))
    write_torch_file(tmp_path / "w.pth", content)
    assert_equal(read_torch_file(tmp_path / "w.pth"),
                 {name: np.asarray(value) for name, value in content.items()})
    with pytest.raises(TypeError, match="no PyTorch storage for complex128"):
        write_torch_file(tmp_path / "w.pth", np.array(1j))
    assert read_torch_file(tmp_path / "w.pth")["scalar"] == 3  # the file before


# --------------------------------------------------------------------------------- using them


def test_weights_that_do_not_fit_are_refused(written, tmp_path):
    folder, _ = written
    unet = folder / "L2SKNet_UNet.pth.tar"
    for call in (lambda: load_model("L2SKNet_FPN", unet),
                 lambda: convert(unet, tmp_path / "w.npz", "L2SKNet_FPN")):
        with pytest.raises(UserError, match="not the weights of this network"):
            call()
    write_torch_file(tmp_path / "none.pth", {"epoch": 3, "state_dict": {}})
    with pytest.raises(UserError, match="none.pth: holds no named tensors"):
        load_model("L2SKNet_FPN", tmp_path / "none.pth")
    with pytest.raises(UserError, match="w.h5: unknown ending; name it .npz, .pth.tar"):
        convert(unet, tmp_path / "w.h5")
    assert not (tmp_path / "w.npz").exists()


def test_the_command_lines(written, tmp_path):
    folder, _ = written
    source, target = folder / "L2SKNet_FPN.npz", tmp_path / "new" / "w.pth.tar"
    result = run("convert_weights.py", source, target)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(
        f"{source} -> {target}\n{target}: L2SKNet_FPN, 290 arrays, 1,075,781 numbers, epoch 2, "
        "2 losses\n")
    assert target.read_bytes() == (folder / "L2SKNet_FPN.pth.tar").read_bytes()

    write_zip(tmp_path / "evil.pth.tar", pickle.dumps(Call(os.system, f"touch '{tmp_path}/x'")))
    for words in (["convert_weights.py", tmp_path / "evil.pth.tar", tmp_path / "w.npz"],
                  ["test.py", "--input", ROOT / "docs" / "overlay.png", "--output", tmp_path,
                   "--device", "cpu", "--weights", tmp_path / "evil.pth.tar"]):
        result = run(*words)
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1].startswith(
            f"error: {tmp_path}/evil.pth.tar: refused, it holds posix.system; only tensors,")
    assert not (tmp_path / "x").exists() and not (tmp_path / "w.npz").exists()
