"""benchmarks/against_pytorch.py: who takes part, and a true table."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import pytest
from scripts import ROOT, complaint, needs_torch, read_table

from benchmarks.against_pytorch import Round, choose_entrants, compare, main, table
from benchmarks.sides import MEASURES, MEMORY, RUNTIMES, WAYS
from utils.errors import UserError


@needs_torch
def test_the_command_measures_each_way_with_the_same_weights(tmp_path):
    ways = ["eager", "channels_last", "bf16"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.against_pytorch", "--device", "cpu", "--ways", *ways,
         "--model_name", "L2SKNet_FPN", "--size", "32", "--steps", "2", "--batch_size", "2",
         "--output_dir", tmp_path, "--csv", tmp_path / "ways.csv"],
        cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "L2SKNet_FPN: initial weights" in run.stdout
    assert "A waiting process used at most" in run.stdout
    ours = ["ours, float32"]
    if "ours, bf16 is left out" not in run.stdout:  # the processor has the instructions
        ours.append("ours, bf16")
    titles = [line.strip("| ").split(" | ")[0].strip() for line in run.stdout.splitlines()
              if line[:2] == "| "]
    assert titles[0] == "L2SKNet_FPN" and titles[2:] == [
        *ways, *ours, *(title.replace("ours,", "ours to the best,") for title in ours)]
    records = read_table(tmp_path / "ways.csv")
    assert len(records) == (len(ways) + len(ours)) * 4
    for record in records:
        samples = [float(value) for value in record["samples"].split()]
        assert len(samples) == (1 if record["unit"] == "MB" else 2) and min(samples) > 0
        assert float(record["median"]) == pytest.approx(statistics.median(samples), rel=1e-5)


def entrants(*ways, precision="default"):
    return choose_entrants(argparse.Namespace(ways=list(ways), precision=precision))


def test_all_ways_or_a_few_take_turns_with_ours():
    assert [*entrants()] == [*WAYS, *RUNTIMES, "ours, float32", "ours, bf16"]
    few = entrants("bf16", "eager")
    assert [*few] == ["eager", "bf16", "ours, float32", "ours, bf16"]
    assert [entrant.precision for entrant in few.values()] == ["float32", "bf16"] * 2
    pair = choose_entrants(argparse.Namespace(ways=None, precision="default"))
    assert [*pair] == ["eager", "ours, float32"]


def test_the_table_holds_ours_to_the_best_way_of_each_precision():
    samples = {"eager": [4.0, 5.0, 4.5], "compile": [2.0], "ours, float32": [1.6]}
    rows = table("Net", [(MEASURES["step"], samples), (MEMORY, {"eager": [1234.5]})],
                 entrants("eager", "compile", "bf16"))
    assert rows == [["Net", "training step", "peak memory of training"],
                    ["eager", "4.5 s", "1234 MB"], ["compile", "2 s", "–"],
                    ["ours, float32", "1.6 s", "–"],
                    ["ours to the best, float32", "1.25 (compile)", "–"]]


def test_the_best_way_is_the_fastest_of_its_precision():
    all_ways = entrants()
    seconds = {"eager": 4.0, "channels_last": 3.0, "compile": 2.0, "bf16": 1.0,
               "bf16+channels_last": 1.5, "ours, float32": 1.6, "ours, bf16": 0.5}
    step, throughput = MEASURES["step"], MEASURES["throughput"]
    assert compare(step, seconds, all_ways, "float32") == ("compile", pytest.approx(1.25))
    assert compare(step, seconds, all_ways, "bf16") == ("bf16", pytest.approx(2))
    # Images a second: the most is the best.
    assert compare(throughput, seconds, all_ways, "float32") == ("eager", pytest.approx(0.4))
    del seconds["compile"]  # it has died
    assert compare(step, seconds, all_ways, "float32") == ("channels_last", pytest.approx(1.875))
    del seconds["ours, bf16"]
    assert compare(step, seconds, all_ways, "bf16") is None
    assert compare(step, {"ours, float32": 1.0}, all_ways, "float32") is None


class Stub:
    """A side without a framework, which takes a second for everything."""

    description, device = "a stub", "cpu"

    def __init__(self, name, args, device):
        pass

    def weights(self, _):
        return {}

    def prepare(self, key, weights):
        pass

    def turn(self, key, calls):
        return 1.0


class Unable(Stub):
    """It cannot start."""

    def __init__(self, name, args, device):
        raise UserError("not on this processor")


class OnGpu(Stub):
    """It says that it runs on a GPU, and takes memory of it."""

    device = "cuda"

    def peak(self):
        return 3_000_000


class Mortal(Stub):
    """It dies in its first turn."""

    def turn(self, key, calls):
        sys.exit(3)


def turns_of(device="cpu", measure="latency", **sides):
    """A round in which the entrants of these titles have stubs for sides."""
    entrant = entrants()
    chosen = {title: entrant[title]._replace(side=side) for title, side in sides.items()}
    args = argparse.Namespace(device=device, measures=[measure], steps=2)
    return Round("Net", args, None, chosen)


def test_sides_that_cannot_start_or_die_are_left_out_and_named():
    sides = {"eager": Stub, "ours, float32": Stub, "ours, bf16": Unable, "bf16": Mortal,
             "benchmark": Stub}  # the last needs a GPU
    with turns_of(**sides) as turns:
        ((measure, samples),) = turns.results()
    assert measure == MEASURES["latency"]
    assert samples == {"eager": [1000, 1000], "ours, float32": [1000, 1000]}
    assert turns.notes[1] == "Net: ours, bf16 is left out: not on this processor"
    assert turns.notes[2].startswith("Net: bf16 is left out: bf16 has died")


def test_a_way_for_gpus_takes_part_on_a_gpu():
    with turns_of("auto", "step", **{"benchmark": OnGpu, "ours, float32": OnGpu}) as turns:
        (_, samples), (memory, peaks) = turns.results()
    assert samples.keys() == peaks.keys() == {"benchmark", "ours, float32"}
    assert memory.title == "peak memory of training" and peaks["benchmark"] == [3]


def test_without_a_pair_to_compare_the_run_ends():
    with turns_of(**{"eager": Mortal, "ours, float32": Stub}) as turns:
        assert "eager has died" in complaint(lambda: list(turns.results()))


@needs_torch
def test_bf16_is_a_way():
    assert "--precision bf16: is measured beside float32" in complaint(
        main, ["--precision", "bf16"])
