"""Running the project's scripts as a user does, on datasets of a few small images."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.errors import UserError
from utils.paths import Paths

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32
SMALL = ("--batch_size", 2, "--image_size", SIZE)  # flags of training


def needs(*packages, requirements):
    """Skips a test without these packages, which are in requirements-NAME.txt."""
    return pytest.mark.skipif(
        not all(map(importlib.util.find_spec, packages)),
        reason=f"needs {' and '.join(packages)} (pip install -r requirements-{requirements}.txt)")


needs_torch = needs("torch", requirements="align")


def common_flags(folder, *flags):
    """Flags for a script that reads folder/data and writes below folder/out, and those given."""
    words = ["--dataset_dir", folder / "data", "--output_dir", folder / "out", "--dataset_name",
             "Tiny", "--device", "cpu", *flags]
    return [str(word) for word in words]


def command(script, folder, *flags):
    """The command line of a script, or of a module that is run by -m, with `common_flags`."""
    program = [script] if script.endswith(".py") else ["-m", script]
    return [sys.executable, *program, *common_flags(folder, *flags)]


def load(script):
    """The module of a script by its path: `import test` would be Python's own tests."""
    spec = importlib.util.spec_from_file_location(f"{Path(script).stem}_script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prints(main, folder, *flags):
    """Calls a script's main in this process with `common_flags`; returns what it printed.

    Raises:
        UserError: what the script would report.
    """
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert not main(common_flags(folder, *flags))
    return output.getvalue()


def run(script, folder, *flags):
    """Runs a script to its end; returns its subprocess.CompletedProcess."""
    result = subprocess.run(command(script, folder, *flags), cwd=ROOT, capture_output=True,
                            text=True)
    assert "Traceback" not in result.stdout + result.stderr, result.stderr
    return result


def succeeds(script, folder, *flags):
    """Runs a script that must succeed; returns what it printed."""
    result = run(script, folder, *flags)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(script, folder, *flags):
    """Runs a script that must refuse its input; returns the message.

    Before the message there may be words of Jittor's compiler.
    """
    result = run(script, folder, *flags)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "error: " in result.stderr
    return result.stderr[result.stderr.index("error: "):]


def signalled(number, after, script, folder, *flags, group=False):
    """Runs a script and sends it a signal once it has printed a line that begins with `after`.

    Args:
        group: True sends the signal to the script and to all processes that it has started.

    Returns:
        The exit status and all that it printed, errors included.
    """
    process = subprocess.Popen(command(script, folder, *flags), cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               start_new_session=True)
    output = ""
    with process:
        for line in process.stdout:
            output += line
            if line.startswith(after):
                os.killpg(process.pid, number) if group else process.send_signal(number)
                break
        else:
            raise AssertionError(f"no line begins with {after!r}:\n{output}")
        output += process.stdout.read()
    assert "Traceback" not in output, output
    return process.returncode, output


def checkpoints(folder, model_name):
    """The folder of a model's checkpoints, of scripts that were given `common_flags`."""
    return Paths(folder / "out").checkpoints("Tiny", model_name)


def assert_written(result, model, names, kinds=("img", "mat", "overlay")):
    """The folders of these kinds in a result have exactly one file per name."""
    for kind in kinds:
        folder, suffix = result / kind / model, "mat" if kind == "mat" else "png"
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == sorted(
            f"{name}.{suffix}" for name in names)


def complaint(call, *arguments, **options):
    """The message of the UserError that a call raises, which must be one line."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_same_arrays(ours, theirs):
    """Two dicts of arrays are equal: names, types, shapes, and all values to the bit."""
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        other = theirs[name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        assert array.tobytes() == other.tobytes(), name


def is_of(picture, color, within=0):
    """H×W: True where a picture has this colour, "#RRGGBB", up to some levels per channel."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    levels = np.asarray(picture, int)[..., :3]
    return (abs(levels - wanted) <= within).all(axis=2)


def read_table(path):
    """The rows of a .csv, each a dict by the headings."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
