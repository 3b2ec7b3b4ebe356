"""The flags: official spellings, refusals that name what is known, and quick answers."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import scripts
from scripts import ROOT

import run_train
import train_device0
from model import MODEL_NAMES
from utils import cli
from utils.errors import UserError
from utils.recipe import FIELDS, Recipe


def parse(*words):
    """The training flags as train_device0.py sees them."""
    parser = cli.make_parser("doc", default_models=["L2SKNet_UNet"])
    cli.add_training(parser)
    return parser.parse_args([str(word) for word in words])


COMMANDS = [[path.name] for path in sorted(ROOT.glob("*.py"))
            if path.name not in ("demo.py", "run_tests.py")]
COMMANDS += [["-m", name] for name in (
    "alignment", "benchmarks.against_pytorch", "benchmarks.definitions", "benchmarks.faults",
    "benchmarks.parity", "utils.runtime")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_outside_its_environment_a_script_names_the_way_there(command):
    run = subprocess.run([sys.executable, "-S", *command], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert re.fullmatch(r"error: numpy is not installed for .*; run `python3 -m utils.environment`,"
                        r" then use \.venv/bin/python \(source \.venv/bin/activate\)\n", run.stderr)


def test_an_import_outside_the_environment_does_not_end_the_interpreter():
    code = ("try:\n    import utils.cli\nexcept ValueError as error:\n"
            "    print('numpy is not installed' in str(error))")
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True,
                         text=True)
    assert run.stdout == "True\n", run.stderr


def test_defaults_are_those_of_the_page():
    args = parse()
    assert args.model_names == ["L2SKNet_UNet"] and args.dataset_names == ["NUDT-SIRST"]
    assert args.dataset_dir == ROOT / "data" and args.output_dir == ROOT
    assert (args.device, args.threshold, args.num_workers) == ("auto", None, 4)
    assert (args.eval_every, args.stop_after, args.resume) == (1, None, None)
    # None: the value of the run that is resumed, else of Recipe.
    assert {getattr(args, name) for name in FIELDS} == {None}
    assert Recipe() == Recipe(400, 8, 0.001, 42, 256, (200, 300), False, 0, False)
    parser = cli.make_parser("doc")
    cli.add_batch_size(parser)  # of scripts without a run
    assert parser.parse_args([]).batch_size == Recipe.batch_size


def test_both_spellings_mean_the_same():
    ours = parse("--model_name", "L2SKNet_FPN", "--dataset_name", "A", "--batch_size", 4,
                 "--epochs", 7, "--num_workers", 2)
    official = parse("--model_names", "L2SKNet_FPN", "--dataset_names", "A", "--batchSize", 4,
                     "--nEpochs", 7, "--threads", 2)
    assert vars(ours) == vars(official)
    assert (ours.batch_size, ours.epochs, ours.num_workers) == (4, 7, 2)
    several = parse("--model_name", *MODEL_NAMES, "--dataset_names", "A", "B")
    assert several.model_names == list(MODEL_NAMES) and several.dataset_names == ["A", "B"]
    assert parse("--resume", "--lr", 0.1).resume == "last"
    assert parse("--resume", "some/last.npz").resume == "some/last.npz"


@pytest.mark.parametrize(("words", "says"), [
    (["--epoch", "3"], "unrecognized arguments: --epoch"),  # no guessing at abbreviations
    (["--lr", "0"], "argument --lr: 0 must be above zero"),
    (["--lr", "nan"], "argument --lr: nan must be above zero"),
    (["--epochs", "2.5"], "argument --epochs/--nEpochs: invalid int value: '2.5'"),
    (["--epochs", "-1"], "-1 must be above zero"),
    (["--batch_size", "0"], "argument --batch_size/--batchSize: 0 must be above zero"),
    (["--threshold", "1"], "1 must be from 0 to below 1"),
    (["--seed", "-1"], "argument --seed: -1 must be from 0 to"),
    (["--num_workers", "-1"], "-1 must not be below zero"),
    (["--target_crops", "1.5"], "1.5 must be from 0 to 1"),
    (["--scale", "0.5"], "0.5 must be from 1 to 4"),
    (["--stop_after", "inf"], "inf must be above zero"),
])
def test_values_out_of_range_are_refused(capsys, words, says):
    for main in (train_device0.main, run_train.main):
        with pytest.raises(SystemExit) as error:
            main(words)
        assert error.value.code == 2
        assert says in capsys.readouterr().err


def test_the_values_that_pytorch_users_give_are_taken():
    args = parse("--num_workers", 0, "--seed", 0, "--threshold", 0, "--lr", "5e-4")
    assert (args.num_workers, args.seed, args.threshold, args.lr) == (0, 0, 0, 5e-4)


TRAINING = ("train_device0.py", "run_train.py")


@pytest.mark.parametrize("script", [
    *TRAINING, "test.py", "cal_metrics.py", "run_evaluate.py", "loss_curves.py", "qualitative.py",
    "utils/checkpoint/pretrained.py"])
def test_help_is_quick_and_says_which_flags_have_no_effect(script):
    """They are those whose values the script does not look at."""
    common = vars(cli.make_parser("doc").parse_args([]))
    module = script[:-3].replace("/", ".")
    start = f"run_module({module!r}" if "/" in script else f"run_path({script!r}"
    code = (f"import runpy, sys\nsys.argv = [{script!r}, '--help']\n"
            f"try:\n    runpy.{start}, run_name='__main__')\n"
            "finally:\n    print('jittor' in sys.modules)")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    text, _, idle = result.stdout.partition(
        "accepted as in every script, but without effect here:\n")
    assert result.stdout.endswith("\nFalse\n") and "L2SKNet_1D_FPN" in result.stdout
    assert all(f"--{name.rstrip('s')}" in result.stdout for name in common)
    idle = re.findall(r"^  --(\w+)", idle.partition("\n\n")[0], re.M)
    source = (ROOT / script).read_text("utf-8")
    assert {name.rstrip("s") for name in idle} == {
        name.rstrip("s") for name in common
        if f"args.{name}" not in source and script not in TRAINING}
    if script in TRAINING:
        text = " ".join(text.split())
        for flag, default in (("--nEpochs", "400"), ("--batchSize", "8"), ("--lr", "0.001"),
                              ("--seed", "42"), ("--image_size", "256")):
            assert re.search(rf"{flag} [^-]*; default {re.escape(default)}\b", text), flag


@pytest.mark.parametrize("script", ["train_device0.py", "test.py", "run_evaluate.py"])
def test_cuda_without_a_gpu_is_refused_in_one_line(tmp_path, monkeypatch, script):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "w.npz").touch()
    flags = ("--weights", tmp_path / "w.npz") if script == "test.py" else ()
    message = scripts.refused(script, tmp_path, "--device", "cuda", *flags)
    assert message.startswith("error: no CUDA: ") and message.count("\n") == 1
    assert "--device cpu" in message


NO_MEMORY = ("error: there is not enough memory; take a smaller --batch_size, or --tile with "
             "test.py --input\n")


def test_a_scripts_end_is_its_exit_status(capsys):
    def fails(error):
        def main():
            raise error
        return main

    for main, status, says in (
        (lambda: None, None, ""), (lambda: 3, 3, ""),
        (fails(UserError("x.png: gone")), 2, "error: x.png: gone\n"),
        (fails(KeyboardInterrupt()), 130, "interrupted\n"),
        (fails(OSError(28, "No space left", "x.npz")), 2,
         "error: x.npz: No space left; check the path, its permissions and the free space\n"),
        (fails(MemoryError()), 2, NO_MEMORY),
        (fails(RuntimeError("GPU memory is overflow, please reduce")), 2, NO_MEMORY),
        (fails(RuntimeError("[f 1128 cuda_device_allocator.cc:31] Unable to alloc cuda device "
                            "memory for size 9")), 2, NO_MEMORY),
    ):
        with pytest.raises(SystemExit) as error:
            cli.run(main)
        assert error.value.code == status
        assert capsys.readouterr().err == says
