"""Files that are damaged at random, and files that were made to do harm."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

from benchmarks.faults.guarded import guarded
from benchmarks.faults.trial import Tally, Trial, one_line_about
from utils.checkpoint.torch_files import write_torch_file
from utils.checkpoint.weights import fitting_weights
from utils.data.datasets import load_split
from utils.data.images import read_gray, read_mask
from utils.data.synthetic import make_sample, write_sample_dataset
from utils.errors import UserError
from utils.predict.prediction_files import read_prediction
from utils.training.logs import EpochRecord, read_log, render_log
from utils.training.resume import read_run

SHAPES = {"layer0.0.body.0.weight": (4, 1, 3, 3), "layer0.0.body.1.running_var": (4,)}
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files before PyTorch 1.6 begin
EXTREMES = [struct.pack(form, number) for form, numbers in (
    ("<I", (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF)), (">I", (1, 0x7FFFFFFF, 0xFFFF)),
    ("<Q", (2**63 - 1, 2**63, 2**40)), (">Q", (2**40,))) for number in numbers]


NOTHING = "what no file holds"


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        name: the file's.
        write: writes a good one.
        read: reads it as the scripts do.
        checked: whether the format has checksums, so that no damage may pass for numbers.
    """

    name: str
    write: Callable[[Path, np.random.Generator], object]
    read: Callable[[Path], Any]
    checked: bool = False


def _image(path, rng, **options):
    Image.fromarray(make_sample(40, 48, rng)[0]).save(path, **options)


def _deep_image(path, rng):
    Image.fromarray(make_sample(40, 48, rng)[0].astype(np.uint16) * 257).save(path)


def _mask(path, rng):
    Image.fromarray(make_sample(40, 48, rng)[1] * np.uint8(255)).save(path)


def _weights(rng):
    return {name: rng.random(shape, np.float32) for name, shape in SHAPES.items()}


def _run(path, rng):
    """A checkpoint to resume from, of two epochs."""
    weights = _weights(rng)
    history = [EpochRecord(epoch, 0.5, 1e9, *rng.random(5)).__dict__ for epoch in (1, 2)]
    meta = {"model": "M", "dataset": "D", "started": "2024-08-02_04-31-35", "losses": [0.25],
            "recipe": {"epochs": 4, "batch_size": 2, "lr": 1e-3, "seed": 1, "image_size": 32},
            "scheduler": {"last_epoch": 2, "base_lr": 1e-3, "milestones": [2, 3], "gamma": 0.1},
            "history": history}
    np.savez(path, **weights, **{"optimizer/steps": np.array(3), "optimizer/lr": np.array(1e-3)},
             meta=np.array(json.dumps(meta)))


def _old_torch(path, rng):
    """PyTorch's format before 1.6, of one tensor."""
    array = _weights(rng)["layer0.0.body.0.weight"]

    def pickled(code):
        return b"\x80\x02" + code + b"."

    def text(word):
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    numbers = b"".join(b"K" + bytes([n]) for n in (4, 1, 3, 3))
    strides = b"".join(b"K" + bytes([n]) for n in (9, 9, 3, 1))
    tensor = (b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n"
              + text("0") + text("cpu") + b"K\x24NtQK\x00(" + numbers + b"t(" + strides
              + b"t\x89}tR")
    path.write_bytes(
        OLD_TORCH + pickled(b"M\xe9\x03")
        + pickled(b"}" + text("little_endian") + b"\x88s")
        + pickled(b"}" + text("layer0.0.body.0.weight") + tensor + b"s")
        + pickled(b"]" + text("0") + b"a") + struct.pack("<q", 36) + array.tobytes())


def _list(path, rng):
    folder = path.parent
    if not (folder / "images").exists():
        write_sample_dataset(folder.parent / "made", 6, 2, 32, int(rng.integers(1000)))
        for child in (folder.parent / "made").iterdir():
            child.rename(folder / child.name)
    names = [f"sample_{number:04d}\n" for number in range(1, 7)]
    path.write_text("".join(names))


def _read_list(path):
    folder = path.parent
    return load_split(folder.parent, folder.name, "train", num_workers=1).names


def _log(path, rng):
    records = [EpochRecord(epoch, *rng.random(1), "Aug  2 04:31:35", *rng.random(5))
               for epoch in range(1, 9)]
    path.write_text(render_log(records, "L2SKNet_UNet on D: 8 epochs"))


def _mat(packed):
    return lambda path, rng: savemat(path, {"T": rng.random((40, 48), np.float32)},
                                     do_compression=packed)


KINDS = (
    Kind("grey.png", _image, read_gray, checked=True),
    Kind("deep.png", _deep_image, read_gray, checked=True),
    Kind("grey.bmp", _image, read_gray), Kind("grey.tif", _image, read_gray),
    Kind("packed.tif", lambda path, rng: _image(path, rng, compression="tiff_lzw"), read_gray),
    Kind("grey.jpg", _image, read_gray), Kind("mask.png", _mask, read_mask, checked=True),
    Kind("train.txt", _list, _read_list),
    Kind("weights.npz", lambda path, rng: np.savez(path, **_weights(rng)),
         lambda path: fitting_weights(path, SHAPES), checked=True),
    Kind("last.npz", _run, lambda path: read_run(path)[1:], checked=True),
    Kind("weights.pth.tar",
         lambda path, rng: write_torch_file(path, {"epoch": 3, "state_dict": _weights(rng)}),
         lambda path: fitting_weights(path, SHAPES), checked=True),
    Kind("old.pth", _old_torch, lambda path: fitting_weights(path, {
        "layer0.0.body.0.weight": (4, 1, 3, 3)})),
    Kind("plain.mat", _mat(False), read_prediction),
    Kind("packed.mat", _mat(True), read_prediction, checked=True),
    Kind("map.npy", lambda path, rng: np.save(path, rng.random((40, 48))), read_prediction),
    Kind("log.txt", _log, read_log),
)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with damage: bits flipped, cut, extended, zeroed, or a number that lies."""
    broken = bytearray(data)
    way = rng.integers(6)
    where = int(rng.integers(len(broken)))
    if rng.random() < 0.5:  # half of all damage where headers are
        where = min(where, int(rng.integers(1, 200)))
    if way == 0:
        for place in rng.integers(0, len(broken), rng.integers(1, 9)):
            broken[place] ^= 1 << rng.integers(8)
    elif way == 1:
        broken[where] ^= 1 << rng.integers(8)
    elif way == 2:
        del broken[where:]
    elif way == 3:
        broken[where:where] = rng.bytes(int(rng.integers(1, 5000)))
    elif way == 4:
        broken[where : where + 512] = bytes(len(broken[where : where + 512]))
    else:
        digits = [i for i, byte in enumerate(broken) if 48 <= byte < 58][:1000]
        if digits and rng.random() < 0.5:
            place = digits[rng.integers(len(digits))]
            broken[place : place + 1] = b"9" * int(rng.choice((5, 20, 400, 5000)))
        else:
            lie = EXTREMES[rng.integers(len(EXTREMES))]
            broken[where : where + len(lie)] = lie
    return bytes(broken)


def same(a: Any, b: Any) -> bool:
    """Whether two values read from files are equal, arrays to the bit."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return (isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.dtype == b.dtype
                and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def verdict(read: Callable[[Path], Any], path: Path, good: Any, checked: bool = False) -> str:
    """What reading a file comes to, in the words of `Tally`, or what went wrong."""
    try:
        value = read(path)
    except UserError as error:
        # Bad files of a list have a line each, below one that names the dataset.
        lines = str(error).split("\n")
        fine = all(one_line_about(line, path, path.parent) for line in lines)
        return "refused" if fine and len(str(error)) < 5000 else f"says {str(error)[:200]!r}"
    if same(good, value):
        return "right"
    return "read as other numbers" if checked else "other"


def damage(kind: Kind, folder: Path, seed: int, tries: int) -> Tally:
    """Reads a file of this kind, damaged each time in another way."""
    place = folder / "D"
    place.mkdir(parents=True, exist_ok=True)
    path = place / kind.name
    kind.write(path, np.random.default_rng(seed))
    data, good = path.read_bytes(), kind.read(path)

    def attempt(number):
        path.write_bytes(mutated(data, np.random.default_rng([seed, number])))
        return verdict(kind.read, path, good, kind.checked)

    tally = Tally()
    slowest = 0.0
    for number, answer, seconds in guarded(attempt, tries):
        tally.add(answer, f"damage {number} of {kind.name}")
        slowest = max(slowest, seconds)
    tally.note = f"slowest {slowest:.1f} s"
    return tally


# ----------------------------------------------------------------------------- made to do harm


class _Call:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def _zip(path, entries, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, parts in entries.items():
            with file.open(name, "w", force_zip64=True) as entry:
                for part in parts:
                    entry.write(part)


def _npy_head(shape, kind="<f4"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def _png(width, height, depth=8):
    def chunk(name, data):
        content = name + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b""))
            + chunk(b"IEND", b""))


def _nested_mat(depth):
    parts, size = [], 0
    for level in range(depth):
        name = (struct.pack("<II", 1, 1) + b"T\0\0\0\0\0\0\0" if level == depth - 1
                else struct.pack("<II", 1, 0))
        body = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, 1, 1) + name
        parts.append(struct.pack("<II", 14, len(body) + size) + body)
        size += len(parts[-1])
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"
    return head + b"".join(reversed(parts))


def _packed_mat(rows, columns):
    body = (struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, rows, columns)
            + struct.pack("<II", 1, 1) + b"T\0\0\0\0\0\0\0" + struct.pack("<II", 9, 2**31))
    packer = zlib.compressobj(9)
    data = packer.compress(struct.pack("<II", 14, 2**31) + body)
    data += b"".join(packer.compress(bytes(10**6)) for _ in range(2200)) + packer.flush()
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"
    return head + struct.pack("<II", 15, len(data)) + data


def _tiff_in_a_circle():
    """A directory of entries that names itself as the next one."""
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, 1, 8), (278, 3, 1, 8), (279, 4, 1, 64)]
    body = b"".join(struct.pack("<HHIHxx", *e) if e[1] == 3 else struct.pack("<HHII", *e)
                    for e in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", 8)


def _sized(path):
    """A picture that can be read in spite of all, as nothing else would be."""
    return NOTHING if read_gray(path).shape == (8, 8) else None


def harmful(folder: Path, trap: Path) -> list[tuple[str, Path, Callable[[Path], Any]]]:
    """Writes them: (what it does, path, how it is read). `trap` appears if one is executed."""
    made: list[tuple[str, Path, Callable[[Path], Any]]] = []

    def add(what, name, content, read):
        path = folder / name
        if callable(content):
            content(path)
        elif content is not None:
            path.write_bytes(content)
        made.append((what, path, read))

    def weights(path):
        return fitting_weights(path, SHAPES)

    command = f"touch '{trap}'"
    million = [bytes(10**6)]
    add("100 bytes that claim terabytes", "a.npy", _npy_head((10**6, 10**6)), read_prediction)
    add("negative sizes", "b.npy", _npy_head((-5, 10)), read_prediction)
    add("a type without a size", "c.npy", _npy_head((2**40,), "|V0"), read_prediction)
    add("objects", "d.npy", lambda p: np.save(p, np.array([_Call(command)]), allow_pickle=True),
        read_prediction)
    add("claims terabytes", "e.npz", lambda p: _zip(p, {"a.npy": [_npy_head((2**21, 2**21))]}),
        weights)
    add("a zip bomb", "f.npz", lambda p: _zip(p, {"a.npy": million * 2000}), weights)
    add("a pickle", "g.npz", pickle.dumps(_Call(command)), weights)
    add("a pickled entry", "h.npz", lambda p: np.savez(p, meta=np.array([_Call(command)])), weights)
    for number, meta in enumerate(("[" * 10**5, "9" * 10**5, "7", '{"scheduler": 1}')):
        add("meta data of another kind", f"i{number}.npz",
            lambda p, meta=meta: np.savez(p, meta=np.array(meta)), read_run)
    add("a call", "j.pth", pickle.dumps(_Call(command), 2), weights)
    add("a call in a zip", "k.pth.tar",
        lambda p: _zip(p, {"archive/data.pkl": [pickle.dumps(_Call(command), 2)]}, 0), weights)
    add("a zip bomb", "l.pth.tar", lambda p: _zip(p, {"archive/data.pkl": million * 2000}), weights)
    add("tuples in tuples that double", "m.pth", OLD_TORCH + b"\x80\x02)" + b"2\x86" * 10**5 + b".",
        weights)
    add("a million levels", "n.pth", OLD_TORCH + b"\x80\x02)" + b"\x85" * 10**6 + b".", weights)
    add("names that lead elsewhere", "o.pth.tar",
        lambda p: _zip(p, {"../../data.pkl": [b"\x80\x02}."], "../../data/0": [b""]}, 0), weights)
    add("cells in cells", "p.mat", _nested_mat(200_000), read_prediction)
    add("a bomb", "q.mat", _packed_mat(2**14, 2**14), read_prediction)
    add("10 gigapixels", "r.png", _png(10**5, 10**5), read_gray)
    add("2**31 lines", "s.png", _png(1, 2**31 - 1, 16), read_mask)
    add("a directory in a circle", "t.tif", _tiff_in_a_circle(), _sized)
    add("PostScript as an image", "u.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
        b"%%EndComments\nshowpage\n", read_gray)
    add("digits without end", "v.txt", b"0" * 10**6 + b"x", read_log)
    add("an epoch of 5000 digits", "w.txt", b"Epoch---" + b"9" * 5000 + b", loss---1,\n", read_log)
    for number, read in enumerate((read_gray, weights, read_prediction, read_log)):
        name = f"circle{number}.{('png', 'npz', 'mat', 'txt')[number]}"
        add("a link to itself", name, lambda p: p.symlink_to(p.name), read)
    for number, read in enumerate((read_gray, weights, read_prediction)):
        add("a pipe nobody writes to", f"pipe{number}.{('png', 'npz', 'mat')[number]}", os.mkfifo,
            read)
        add("a folder", f"folder{number}.{('png', 'npz', 'mat')[number]}", Path.mkdir, read)
    for number, name in enumerate(("../../etc/passwd", "/etc/passwd", "a\0b", "x" * 10**6)):
        place = folder / f"D{number}"
        _make_lists(place, name)
        made.append((f"the name {name[:20]!a} in a list", place / "train.txt", _read_list))
    return made


def _make_lists(folder, name):
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    (folder / "train.txt").write_text(f"{name}\n")


def harm(folder: Path, seed: int, tries: int) -> Tally:
    """Reads every file that was made to do harm; the first `tries` of them."""
    trap, programs = folder / "executed", folder / "programs"
    programs.mkdir(parents=True)
    program = programs / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{trap}'\n")
    program.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{programs}:{before}"
    tally = Tally()
    slowest = 0.0
    try:
        made = harmful(folder, trap)[:tries]
        def attempt(number):
            what, path, read = made[number]
            answer = verdict(read, path, NOTHING)
            return f"was read ({what})" if answer == "other" else answer

        for number, answer, seconds in guarded(attempt, len(made)):
            if trap.exists():
                answer = "executed"
                trap.unlink()
            tally.add(answer, f"{made[number][1].name}, {made[number][0]}")
            slowest = max(slowest, seconds)
    finally:
        os.environ["PATH"] = before
    tally.note = f"slowest {slowest:.1f} s"
    return tally


def trials() -> list[Trial]:
    """Those of this subject."""
    found = [
        Trial("bad input", f"{kind.name} damaged",
              lambda folder, seed, tries, kind=kind: damage(kind, folder, seed, tries),
              25, 500, 2000)
        for kind in KINDS
    ]
    return [*found, Trial("bad input", "files made to do harm", harm, 999, 999, 999)]
