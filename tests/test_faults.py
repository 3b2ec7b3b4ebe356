"""benchmarks/faults: nothing is lost, and it would notice if something were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scripts import ROOT

from benchmarks.faults import disk, guarded, kills, memory, scripts
from benchmarks.faults.bad_input import KINDS, damage, mutated, verdict
from benchmarks.faults.trial import Tally
from utils.errors import UserError


def test_the_short_form_loses_nothing():
    run = subprocess.run([sys.executable, "-m", "benchmarks.faults", "--short", "--seed", "1"],
                         cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.endswith("\nlost: 0\n"), run.stdout + run.stderr
    rows = [line.strip("| \n").split(" | ") for line in run.stdout.splitlines()
            if line.startswith("| ")][1:]
    tries = {row[0]: int(row[1]) for row in rows}
    assert tries["bad input: last.npz damaged"] == 25
    assert tries["bad input: files made to do harm"] == 40
    assert tries["kills: train_device0.py, then --resume"] == 2
    assert sum(int(row[3]) for row in rows) > 300 and all(row[5] == "0" for row in rows)


def test_an_unknown_trial_is_refused():
    run = subprocess.run([sys.executable, "-m", "benchmarks.faults", "--only", "nothing"],
                         cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith("error: --only nothing: no trial has")


def test_crashes_hangs_and_memory_are_noticed_and_the_next_one_goes_on(monkeypatch):
    monkeypatch.setattr(guarded, "SECONDS", 1)
    calls = [lambda: "right", lambda: os.kill(os.getpid(), signal.SIGKILL),
             lambda: time.sleep(60), lambda: len(bytes(2**33)), lambda: 1 / 0, lambda: "refused"]
    answers = [answer for _, answer, _ in guarded.guarded(lambda n: str(calls[n]()), len(calls))]
    assert answers == ["right", "crashed (SIGKILL)", "hung for 1 s", "MemoryError: ",
                       "ZeroDivisionError: division by zero", "refused"]


@pytest.mark.parametrize(("error", "expected"), [
    (UserError("PATH: damaged"), "refused"), (UserError("a file is damaged"), "says 'a file"),
    (UserError("PATH: damaged\nTraceback"), "says "), (UserError("PATH: \x1b[2J"), "says "),
])
def test_only_one_line_that_names_the_file_is_a_refusal(tmp_path, error, expected):
    path = tmp_path / "a"

    def read(_):
        raise UserError(str(error).replace("PATH", str(path)))

    assert verdict(read, path, None).startswith(expected)


def test_other_numbers_are_a_loss_where_there_is_a_checksum(tmp_path):
    good = np.float32([1, 2])
    assert verdict(lambda _: good.copy(), tmp_path, good, True) == "right"
    assert verdict(lambda _: good + 1, tmp_path, good, True) == "read as other numbers"
    assert verdict(lambda _: good + 1, tmp_path, good) == "other"
    tally = Tally()
    tally.add("read as other numbers", "a.png")
    assert tally.lost == ["a.png: read as other numbers"] and tally.tries == 1


def test_what_is_said_of_full_disks_is_counted():
    tally = Tally(right=1, refused=2, lost=["9 bytes: crashed"])
    assert disk.note(2, tally) == "full in 2 of 4, 3 resumed to the digit"


def test_the_same_seed_tries_the_same(tmp_path):
    data = bytes(range(256)) * 8
    twice = [mutated(data, np.random.default_rng([3, n])) for n in range(40)] * 2
    assert twice[:40] == twice[40:] and len(set(twice)) > 30 and data not in twice
    tallies = [damage(KINDS[0], tmp_path / str(n), 5, 10) for n in range(2)]
    assert tallies[0].refused == tallies[1].refused > 5


def test_results_are_compared_but_for_their_times(tmp_path):
    for name, clock, loss in (("a", "04:31:35", 0.5), ("b", "05:00:00", 0.5), ("c", "04:31:35", 1)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / f"T_2024-08-02_{clock.replace(':', '-')}.txt"
        path.write_text(f"Aug  2 {clock} Epoch---1, total_loss---{loss},\n")
        (tmp_path / name / ".left-over.txt").write_text(name)
    a, b, c = (scripts.contents(tmp_path / name) for name in "abc")
    assert not scripts.differences(a, b) and scripts.differences(a, c) == "T_.txt"
    assert scripts.differences(a, {}) == "T_.txt"


_IN_PLACE = """
import sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
print("Running on a CPU", flush=True)
for name in ("a.npz", "b.npz"):
    np.savez(folder / name, a=np.ones(1000))
"""


def test_kills_find_files_written_in_place(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(_IN_PLACE)
    monkeypatch.setattr(scripts, "resumed", lambda *_: ())
    monkeypatch.setattr(scripts, "command", lambda folder, _, output, slowed=(1, tmp_path / "m"): [
        sys.executable, "-m", "benchmarks.faults.slowed", *map(str, (*slowed, script, output))])
    tally = kills.kill_training(tmp_path / "run", 5, 6)  # of them one is enough
    assert tally.tries == 6 and any("half a file (" in line for line in tally.lost), tally


def test_memory_that_grows_is_noticed():
    flat = [(n, 500_000_000 + n % 3) for n in range(1000)]
    noisy = [(n, 500_000_000 + 20_000_000 * (n * 7919 % 11)) for n in range(1000)]
    leak = [(n, 500_000_000 + 20_000 * n) for n in range(1000)]
    assert not memory.judged(flat, 1000, "frame").lost
    assert not memory.judged(noisy, 1000, "frame").lost
    (line,) = memory.judged(leak, 1000, "frame").lost
    assert line.startswith("511 MB, +20.0 ± 0.0 kB per frame over the second half of 1,000")
