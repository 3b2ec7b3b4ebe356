"""PyTorch's files: read as PyTorch reads them, never executed, written exactly."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from alignment import golden
from model import MODEL_NAMES, build_model
from utils.checkpoint.convert import convert
from utils.checkpoint.torch_files import (
    find_state_dict,
    is_torch_file,
    read_torch_file,
    write_torch_file,
)
from utils.checkpoint.weights import get_weights, load_weights, read_meta, save_weights
from utils.errors import UserError
from utils.predict.maps import load_model

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
FILES = ("torch_zip.pth.tar", "torch_legacy.pth")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None,
                                 reason="PyTorch is not installed")


def same(ours, theirs):
    """Whether two arrays are equal to the bit."""
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and (
        ours.tobytes() == theirs.tobytes())


def run(*words):
    """Runs Python in a process of its own; returns its subprocess.CompletedProcess."""
    result = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True,
                            cwd=ROOT)
    assert "Traceback" not in result.stderr, result.stderr
    return result


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


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_is_refused_in_one_line(tmp_path, name):
    data = (FIXTURES / name).read_bytes()
    path = tmp_path / name
    for end in [0, 1, 15, 20, *range(100, len(data) - 1, 97)]:
        path.write_bytes(data[:end])
        assert is_torch_file(path)
        with pytest.raises(UserError, match="not a file of PyTorch, or damaged") as error:
            read_torch_file(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_raises_nothing_but_a_user_error(tmp_path, name):
    data = (FIXTURES / name).read_bytes()
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
        load_weights(build_model("L2SKNet_1D_FPN"), path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    assert is_torch_file(tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth: no such file"):
        read_torch_file(tmp_path / "w.pth")


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(UserError, match="no such file"):
        read_torch_file(path)
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    os.replace(tmp_path / "w.npz", path)
    assert not is_torch_file(path)  # whatever its name
    with pytest.raises(UserError, match="not a file of PyTorch"):
        read_torch_file(path)


def test_the_state_dict_is_found_wherever_it_lies():
    a, b = np.zeros(1), np.ones(1)
    names = {"x.weight", "x.bias"}
    good = {"x.weight": a, "x.bias": b}
    assert find_state_dict(good, names) == good
    assert find_state_dict({**good, "epoch": 3}, names) == good
    assert find_state_dict({f"module.{key}": value for key, value in good.items()}, names) == good
    many = {str(i): a for i in range(9)}
    moments = {"state": {0: {"exp_avg": a, "step": b}}}
    content = {"optimizer": moments, "teacher": many, "any": {"net": good}, "loss": a}
    assert find_state_dict(content, names) == good
    other = dict.fromkeys(good, b)
    assert find_state_dict({"ema": other, "state_dict": good}, names) == good
    loop = {"epoch": 1}
    loop["self"] = loop
    assert find_state_dict(loop, names) == find_state_dict([1], names) == {}


# --------------------------------------------------------------------------------- what it refuses


def write_zip(path, code, storages=(), **options):
    """A file like torch.save's of a pickle."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", code)
        for key, data in enumerate(storages):
            file.writestr(f"archive/data/{key}", data)


def write_legacy(path, code):
    head = b"".join(pickle.dumps(each, 2) for each in (
        0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    path.write_bytes(head + code + pickle.dumps([], 2))


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def refused(path, *says):
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    message = str(error.value)
    assert message.startswith(f"{path}: refused, it holds ") and message.isprintable(), message
    assert all(part in message for part in says), message


def both_formats(tmp_path, code, *says):
    for write, name in ((write_zip, "evil.pth"), (write_legacy, "old.pth")):
        write(tmp_path / name, code)
        refused(tmp_path / name, *says)


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
        (Call(np.load, "x.npy", None, True), "load"),
        (Call(importlib.import_module, "os"), "importlib.import_module"),
        (Call(shutil.rmtree, str(sentinel)), "shutil.rmtree"),
        (io.BytesIO(b"state"), "_io.BytesIO"),
        (np.zeros(3, object), "_reconstruct"),
    ):
        content = {"epoch": 1, "state_dict": {"a": [trap]}}
        both_formats(tmp_path, pickle.dumps(content, protocol), name)
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


STRANGE = {
    "nested getattr": (b"c__builtin__\ngetattr\n(cos\nsystem\n" + unicode("__call__") + b"tR.",
                       "__builtin__.getattr"),
    "hub": (b"ctorch.hub\nload\n(" + unicode("a/b") + b"tR.", "torch.hub.load"),
    "load in torch": (b"ctorch\nload\n)R.", "torch.load"),
    "attribute of an allowed name": (
        b"\x80\x04" + unicode("collections") + unicode("OrderedDict.__init__.__globals__")
        + b"\x93.", "collections.OrderedDict.__init__.__globals__"),
    "a name that is no string": (b"\x80\x04K\x01)\x93.", "1.()"),
    "a name with control characters": (
        b"\x80\x04" + unicode("a\nb\x1b[31m") + unicode("c") + b"\x93.", "a\\nb\\x1b[31m.c"),
    "old instance": (b"(" + unicode("true") + b"ios\nsystem\n.", "INST os system"),
    "old object": (b"(cos\nsystem\n" + unicode("true") + b"o.", "os.system"),
    "new object": (b"ccollections\nOrderedDict\n)\x81.", "NEWOBJ"),
    "extension": (b"\x82\x01.", "EXT1"),
    "text reference": (b"Pposix.system\n.", "PERSID posix.system"),
    "function's state": (TENSOR + b"}" + unicode("__code__") + b"K\x01sb.", "an object's state"),
    "function's slots": (TENSOR + b"N}" + unicode("__defaults__") + b"(K\x01ts\x86b.",
                         "an object's state"),
    "setstate on a tensor": (tensor(6, 0, (2, 3), (3, 1))[:-1] + b"(K\x01K\x02tb.",
                             "an object's state"),
    "list as dict": (b"]K\x01K\x02s.", "a list with keys"),
    "tensor as dict": (tensor(6, 0, (2, 3), (3, 1))[:-1] + b"K\x00K\x02s.", "a ndarray with keys"),
    "append to a tensor": (tensor(6, 0, (2, 3), (3, 1))[:-1] + b"K\x00a.", "a ndarray to append"),
    "call a dict": (b"})R.", "a call of a value"),
    "tuples of tuples as a key": (b"})\x85\x85Ns.", "keys of type tuple"),
    "long text as bytes": (b"c_codecs\nencode\n" + unicode("a" * 9) + unicode("latin1") + b"\x86R.",
                           "encoded text"),
    "other codec": (b"c_codecs\nencode\n" + unicode("a") + unicode("rot13") + b"\x86R.",
                    "encoded text"),
    "array of objects": (b"cnumpy\ndtype\n" + unicode("O8") + b"\x85R.", "NumPy's type O8"),
    "big-endian number": (
        b"cnumpy\ndtype\n" + unicode("f8") + b"\x85R(K\x03" + unicode(">") + b"tb.", "big-endian"),
    "whole network": (b"(" + unicode("module") + b"NNNtQ.", "a reference to other things"),
    "past the storage": (tensor(6, 0, (7,), (1,)), "a tensor larger than its storage"),
    "stride past the storage": (tensor(6, 0, (2, 2), (5, 1)), "a tensor larger"),
    "offset past the storage": (tensor(6, 2**62, (1,), (1,)), "a tensor larger"),
    "offset before the storage": (tensor(6, -1, (1,), (1,)), "a tensor of unknown kind"),
    "negative stride": (tensor(6, 5, (6,), (-1,)), "a tensor of unknown kind"),
    "one element a million times": (tensor(6, 0, (10**6, 10**6), (0, 0)), "a tensor larger"),
    "fewer strides": (tensor(6, 0, (2, 3), (1,)), "a tensor of unknown kind"),
    "negative storage": (tensor(-6, 0, (2, 3), (3, 1)), "a storage of unknown kind"),
    "tensor as storage": (
        b"\x80\x02" + TENSOR + b"(" + tensor(6, 0, (6,), (0,))[2:-1]
        + b"K\x00K\x06\x85K\x01\x85\x89}tR.", "a tensor of unknown kind"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_pickles_are_refused_by_name(tmp_path, kind):
    code, says = STRANGE[kind]
    write_zip(tmp_path / "evil.pth", code, [SIX])
    refused(tmp_path / "evil.pth", says)


def test_the_same_pickle_without_malice_is_read(tmp_path):
    write_zip(tmp_path / "w.pth", tensor(6, 1, (2, 2), (3, 1)), [SIX])
    assert read_torch_file(tmp_path / "w.pth").tolist() == [[1, 2], [4, 5]]


def test_sizes_that_a_file_claims_take_no_memory(tmp_path):
    path, numbers = tmp_path / "w.pth", b"\0" * 10**5
    bomb = tensor(25 * 10**9, 0, (25 * 10**9,), (1,))
    write_zip(path, bomb, [numbers], compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed or overlapping entries")
    with zipfile.ZipFile(path, "w") as file:  # one entry, named in the directory many times
        file.writestr("archive/data.pkl", b"N.")
        file.writestr("archive/data/0", numbers)
        file.filelist += file.filelist[-1:] * 1000
    refused(path, "compressed or overlapping entries")
    write_legacy(tmp_path / "old.pth", bomb)
    write_zip(path, bomb, [numbers])
    for each in (path, tmp_path / "old.pth"):
        with pytest.raises(UserError, match="damaged"):
            read_torch_file(each)
    write_zip(path, b"\x80\x02}r\xff\xff\xff\x7f.")  # 2**31 is a place in the memo, not its size
    assert read_torch_file(path) == {}


# --------------------------------------------------------------------------------- what is written


@pytest.fixture(scope="module")
def written(cpu, tmp_path_factory):
    """Of each network the recipe's weights as .npz, .pth.tar and .pth; folder, model → weights."""
    folder, weights = tmp_path_factory.mktemp("written"), {}
    for model_name in MODEL_NAMES:
        net = build_model(model_name)
        load_weights(net, golden.weights(golden.load(model_name)))
        weights[model_name] = get_weights(net)
        history = [{"epoch": 1, "loss": 0.9}, {"epoch": 2, "loss": 0.5, "time": 3.0, "mIoU": 0.25,
                                               "Pd": None}]
        save_weights(net, folder / f"{model_name}.npz", {"model": model_name, "history": history})
        for ending in (".pth.tar", ".pth"):
            convert(folder / f"{model_name}.npz", folder / f"{model_name}{ending}")
    return folder, weights


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    assert all(same(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_the_round_trip_is_exact(written, tmp_path, model_name):
    folder, weights = written
    for ending in (".pth.tar", ".pth"):
        line = convert(folder / f"{model_name}{ending}", tmp_path / "back.npz")
        assert line.startswith(f"{tmp_path / 'back.npz'}: {model_name}, ")  # told by the names
        for path in (tmp_path / "back.npz", folder / f"{model_name}{ending}"):
            assert_equal(get_weights(load_model(model_name, path)), weights[model_name])
    assert read_meta(tmp_path / "back.npz") == {}
    convert(folder / f"{model_name}.pth.tar", tmp_path / "again.pth.tar")
    assert (tmp_path / "again.pth.tar").read_bytes() == (
        folder / f"{model_name}.pth.tar").read_bytes()


@pytest.mark.parametrize("model_name", MODEL_NAMES)
def test_names_and_shapes_are_official_in_the_official_order(written, model_name):
    folder, weights = written
    fixture = golden.load(model_name)
    content = read_torch_file(folder / f"{model_name}.pth.tar")
    state = content.pop("state_dict")
    assert content == {"epoch": 2, "total_loss": 0.5, "mIoU": 0.25}
    assert_equal(state, read_torch_file(folder / f"{model_name}.pth"))
    counts = [name for name in state if name.endswith("num_batches_tracked")]
    assert [name for name in state if name not in counts] == list(map(str, fixture["keys"]))
    assert ["x".join(map(str, array.shape)) for name, array in state.items()
            if name not in counts] == list(map(str, fixture["shapes"]))
    before = dict(zip(list(state)[1:], state))
    assert [before[name] for name in counts] == [
        name for name in state if name.endswith("running_var")]
    assert all(same(state[name], np.zeros((), "i8")) for name in counts)
    dead = state.keys() - weights[model_name].keys() - set(counts)
    assert len(dead) == (10 if "1D" in model_name else 0)
    assert all(not state[name].any() for name in dead)


READ = """
import sys
import numpy as np
import torch

for path in sys.argv[1:]:
    content = torch.load(path, weights_only=True)
    state = content.get("state_dict", content)
    print(type(state).__name__, len(content) if state is not content else "bare")
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
        f"OrderedDict {4 if path.suffix == '.tar' else 'bare'}" for path in paths]
    for path in paths:
        content = read_torch_file(path)
        with np.load(f"{path}.npz") as file:
            assert_equal(dict(file), content.get("state_dict", content))
        model_name = path.name.split(".")[0]
        for ending in ("zip", "old"):
            assert is_torch_file(f"{path}.{ending}.pt")
            assert_equal(get_weights(load_model(model_name, f"{path}.{ending}.pt")),
                         weights[model_name])


def test_all_kinds_of_values_survive_writing(tmp_path):
    content = {
        "numbers": [0, 1, -1, 127, 128, -128, -129, 2**31, 2**70, -(2**70), 0.1, float("-inf")],
        "others": (None, True, False, "naïve\n", (), [], {}),
        **{kind: (np.arange(6).reshape(2, 3) % 2).astype(kind).T
           for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")},
        "scalar": np.float32(3), "empty": np.zeros((0, 2)),
    }
    write_torch_file(tmp_path / "w.pth", content)
    read = read_torch_file(tmp_path / "w.pth")
    assert list(read) == list(content)
    for name, value in content.items():
        if isinstance(value, (np.ndarray, np.generic)):
            assert same(read[name], np.asarray(value)), name
        else:
            assert repr(read[name]) == repr(value)
    with pytest.raises(TypeError, match="no PyTorch storage for complex128"):
        write_torch_file(tmp_path / "w.pth", [1j])
    assert read_torch_file(tmp_path / "w.pth")["scalar"] == 3  # the file before


# --------------------------------------------------------------------------------- using them


@pytest.mark.parametrize("kind", ["f8", "f2"])
def test_checkpoints_of_other_precision_and_of_data_parallel_load(cpu, tmp_path, kind):
    weights = {name: array.astype(kind)
               for name, array in golden.weights(golden.load("L2SKNet_1D_FPN")).items()}
    content = {"epoch": 9, "optimizer": {"state": {0: {"exp_avg": np.zeros(3)}}},
               "model": {f"module.{name}": array for name, array in weights.items()}}
    write_torch_file(tmp_path / "w.pt", content)
    net = load_model("L2SKNet_1D_FPN", tmp_path / "w.pt")
    loaded = get_weights(net)
    assert_equal(loaded, {name: weights[name].astype("f4") for name in loaded})


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
        f"{source} -> {target}\n{target}: L2SKNet_FPN, 290 arrays, 1,075,781 numbers, "
        "with epoch 2, total_loss 0.5, mIoU 0.25\n")
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
