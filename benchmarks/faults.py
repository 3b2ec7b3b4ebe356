"""Damages files, kills trainings and fills disks at random, and counts what is lost (Markdown).

    python -m benchmarks.faults                      # some minutes
    python -m benchmarks.faults --times 20           # twenty times as many tries

Runs the real scripts and readers on small made-up data in a temporary folder. A try is good if its
result is as without the fault, if one line names the bad file, or if it reads other numbers from a
file whose format has no checksum. Any other try counts as lost; then the exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Iterator

import numpy as np
from PIL import Image
from scipy.io import savemat

from utils import cli
from utils.checkpoint.torch_files import write_torch_file
from utils.checkpoint.weights import fitting_weights
from utils.data.images import read_gray, read_levels
from utils.data.synthetic import make_sample, write_sample_dataset
from utils.errors import UserError
from utils.predict.prediction_files import read_prediction
from utils.report.tables import print_head, print_row

RIGHT, AMID, REFUSED, OTHER = KNOWN = (
    "as if nothing had happened", "the same, killed amid a write", "refused by one line",
    "read as other numbers")
Verdicts = Iterator[str]  # one of KNOWN for each try, or the words for a loss


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the trials and prints a row for each; 1 if something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT",
                        help="run only trials whose name contains this")
    parser.add_argument("--seed", type=int, default=1, metavar="N",
                        help="seed of the faults; default 1")
    parser.add_argument("--times", type=cli.positive(float), default=1, metavar="F",
                        help="a factor on the number of tries; default 1")
    args = parser.parse_args(argv)
    trials = [
        *((f"damaged {name}", partial(damage, name), 100) for name in KINDS),
        ("kills of a training", kill_trainings, 8), ("a full disk", fill_disk, 4)]
    chosen = [trial for trial in trials if args.only in trial[0]]
    if not chosen:
        raise UserError(f"--only {args.only}: no trial has this in its name; take one of "
                        f"{', '.join(name for name, *_ in trials)}")
    any_lost = False
    print_head("trial", "tries", *KNOWN, "lost")
    for name, trial, tries in chosen:
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            count = max(1, round(tries * args.times))
            verdicts = list(trial(Path(folder), random.Random(args.seed), count))
        lost = [verdict for verdict in verdicts if verdict not in KNOWN]
        counts = len(verdicts), *map(verdicts.count, KNOWN), len(lost)
        print_row(name, *map(str, counts))
        for verdict in lost[:5]:
            print(f"LOST, {name}: {verdict}", file=sys.stderr, flush=True)
        any_lost |= bool(lost)
    return int(any_lost)


SHAPES = {"layer0.0.body.0.weight": (4, 1, 3, 3), "layer0.0.body.1.running_var": (4,)}
SECONDS, BYTES = 20, 2 * 2**30  # that reading one damaged file may take


def _image(mask, path, rng):
    image, target = make_sample(40, 48, rng)
    Image.fromarray(target * np.uint8(255) if mask else image).save(path)


def _weights(write, path, rng):
    write(path, {name: rng.random(shape, np.float32) for name, shape in SHAPES.items()})


def _mat(packed, path, rng):
    savemat(path, {"T": rng.random((40, 48), np.float32)}, do_compression=packed)


_read_weights = partial(fitting_weights, shapes=SHAPES)
KINDS = {  # name: how a good file is written, how it is read, whether the format has a checksum
    "grey.png": (partial(_image, False), read_gray, True),
    "grey.tif": (partial(_image, False), read_gray, False),
    "grey.jpg": (partial(_image, False), read_gray, False),
    "mask.png": (partial(_image, True), read_levels, True),
    "weights.npz": (partial(_weights, lambda path, arrays: np.savez(path, **arrays)),
                    _read_weights, True),
    "weights.pth.tar": (partial(_weights, write_torch_file), _read_weights, True),
    "plain.mat": (partial(_mat, False), read_prediction, False),
    "packed.mat": (partial(_mat, True), read_prediction, True),
    "map.npy": (lambda path, rng: np.save(path, rng.random((40, 48))), read_prediction, False),
}


def damage(name: str, folder: Path, rng: random.Random, tries: int) -> Verdicts:
    """Reads a file of `KINDS`, damaged each time in another way."""
    path, (write, read, checked) = folder / name, KINDS[name]
    write(path, np.random.default_rng(rng.randrange(2**31)))
    data, good = path.read_bytes(), pickle.dumps(read(path))
    for _ in range(tries):
        path.write_bytes(mutated(data, rng))
        answer = guarded(lambda: verdict(read, path, good))
        yield f"{OTHER} in spite of a checksum" if answer == OTHER and checked else answer


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Damaged bytes: some flipped, cut, inserted, zeroed, or replaced by a wrong number."""
    broken = bytearray(data)
    where = rng.randrange(min(len(broken), rng.choice((200, 2**30))))  # headers half of the time
    way = rng.randrange(5)
    if way == 0:
        for place in (where, *rng.choices(range(len(broken)), k=rng.randrange(8))):
            broken[place] ^= 1 << rng.randrange(8)
    elif way == 1:
        del broken[where:]
    elif way == 2:
        broken[where:where] = rng.choices(range(256), k=rng.randint(1, 5000))
    elif way == 3:
        broken[where : where + 512] = bytes(len(broken[where : where + 512]))
    else:
        lie = rng.choice((0, 1, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63))
        size = 4 if lie < 2**32 else 8
        broken[where : where + size] = rng.choice((
            lie.to_bytes(size, "little"), lie.to_bytes(size, "big"), b"9" * rng.choice((5, 400))))
    return bytes(broken)


def verdict(read: Callable[[Path], Any], path: Path, good: bytes) -> str:
    """The outcome of reading a damaged file; `good`: the pickled content of the good file."""
    try:
        return RIGHT if pickle.dumps(read(path)) == good else OTHER
    except UserError as error:
        line = str(error)
        fine = line.isprintable() and str(path) in line and len(line) < 5000
        return REFUSED if fine else f"says {line[:200]!r}"


def guarded(call: Callable[[], str]) -> str:
    """The answer of a call in a forked process with bounds on time and memory, or how it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        answer = "no answer"
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + BYTES,) * 2)
            signal.alarm(SECONDS)
            warnings.simplefilter("ignore")
            answer = call()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, answer[:1000].encode())
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return f"died by {signal.Signals(os.WTERMSIG(status)).name}" if status else answer


DATASET, MODEL = "Tiny", "L2SKNet_1D_FPN"
STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d")
# Runs a script that pauses before each file it opens or renames below a folder.
SLOWED = """
import random, runpy, sys, time
rng, folder, sys.argv = random.Random(sys.argv[1]), sys.argv[2], sys.argv[3:]
def pause(event, arguments):
    if event in ("open", "os.rename", "os.link") and folder in str(arguments[0]):
        time.sleep(rng.uniform(0, 0.4))
sys.addaudithook(pause)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def training(folder: Path, output: Path, slowed: int | None = None) -> list[str]:
    """The command line of a training that begins, or goes on with what is in `output`."""
    there = any(path.name in ("last.npz", "before.npz") for path in output.rglob("*.npz"))
    start = [] if slowed is None else ["-c", SLOWED, str(slowed), str(output)]
    return [sys.executable, "-u", *start, "train_device0.py", "--dataset_dir",
            str(folder / "data"), "--dataset_name", DATASET, "--model_name", MODEL, "--output_dir",
            str(output), "--device", "cpu", "--batch_size", "2", "--image_size", "32", "--epochs",
            "4", "--lr", "1e-2", *["--resume"] * there]


def run_whole(folder: Path, rng: random.Random) -> tuple[dict[str, Any], float]:
    """Trains without faults, twice; returns what is written, and the seconds of a slowed run."""
    write_sample_dataset(folder / "data" / DATASET, 6, 3, 32, rng.randrange(2**31))
    for output, slowed in (folder / "whole", None), (folder / "slow", 0):  # the first may compile
        began = time.monotonic()
        code, errors = _ended(training(folder, output, slowed))
        if code:
            raise UserError(f"train_device0.py fails without any fault: {errors[-500:]}")
    return contents(folder / "whole"), time.monotonic() - began


def _ended(words, seconds=None):
    """Exit status and errors of a command; status None if it was killed after so many seconds."""
    with subprocess.Popen(words, cwd=cli.ROOT, text=True, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            errors = process.communicate(timeout=seconds)[1]
            return process.returncode, errors
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[1]


def contents(folder: Path) -> dict[str, Any]:
    """File → content without times; no temporary files, no earlier run. Raises at half a file."""
    found = {}
    for path in sorted(folder.rglob("*.*")):
        if path.name.startswith(".") or path.name == "before.npz" or "earlier_" in path.parent.name:
            continue
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                content = {name: arrays[name].tobytes() for name in arrays if name != "meta"}
                content["meta"] = STAMP.sub("", str(arrays["meta"]))
        else:
            content = STAMP.sub("", path.read_text())
        found[STAMP.sub("", str(path.relative_to(folder)))] = content
    return found


def end_of_run(folder: Path, output: Path, expected: dict[str, Any]) -> str:
    """Resumes a run to its end: RIGHT if its files equal the expected ones, else what differs."""
    code, errors = _ended(training(folder, output))
    if code:
        return f"exit {code}, {errors[-300:]}"
    found = contents(output)
    names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
    return f"differs at the end: {', '.join(names)}" if names else RIGHT


def kill_trainings(folder: Path, rng: random.Random, tries: int) -> Verdicts:
    """Kills trainings at random moments and resumes them until they end."""
    expected, length = run_whole(folder, rng)
    while tries > 0:
        kills, output = [], folder / "out"
        while len(kills) < min(8, tries):  # then the run may end
            moment = rng.uniform(0.4, 1) * length  # before, Python and Jittor start
            code, _ = _ended(training(folder, output, rng.randrange(2**31)), moment)
            if code is not None:
                length *= 1 if kills else 0.9
                break
            left = any(path.name.startswith(".") for path in output.rglob("*.*"))
            try:
                contents(output)
                kills.append(AMID if left else RIGHT)
            except Exception as error:  # whatever its reader makes of half a file
                kills.append(f"half a file: {error}")
        end = end_of_run(folder, output, expected)
        yield from (kill if end == RIGHT else end for kill in kills)
        tries -= len(kills)
        shutil.rmtree(output)


def fill_disk(folder: Path, rng: random.Random, tries: int) -> Verdicts:
    """Trains onto a tmpfs of random size, makes room, and resumes; does nothing without root."""
    expected, _ = run_whole(folder, rng)
    used = sum(path.stat().st_size for path in (folder / "whole").rglob("*") if path.is_file())
    for output in (folder / f"out{number}" for number in range(tries)):
        size = rng.randrange(2**16, int(1.3 * used))
        output.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "faults", str(output)]
        if subprocess.run(mount, capture_output=True).returncode:
            return
        try:
            code, errors = _ended(training(folder, output))
            line = re.search(f"(^|\n)error: .*{re.escape(str(output))}.*\n$", errors)
            full = code == 2 and line and "Traceback" not in errors
            answer = REFUSED if full else f"{size} bytes: {errors[-300:]!r}" if code else RIGHT
            subprocess.run(["mount", "-o", "remount,size=1g", str(output)], check=True)
            end = end_of_run(folder, output, expected)
            yield answer if end == RIGHT else end
        finally:
            subprocess.run(["umount", "-l", str(output)], check=True)


if __name__ == "__main__":
    cli.run(main)
