"""Running the project's scripts as a user does, on datasets of a few small images."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZE = 32
SMALL = ("--batch_size", 2, "--image_size", SIZE)  # flags of training


def command(script, folder, *flags):
    """The command line of a script that reads folder/data and writes below folder/out."""
    words = [sys.executable, ROOT / script, "--dataset_dir", folder / "data",
             "--output_dir", folder / "out", "--dataset_name", "Tiny", "--device", "cpu", *flags]
    return [str(word) for word in words]


def load(script):
    """The module of a script by its path: `import test` would be Python's own tests."""
    spec = importlib.util.spec_from_file_location(f"{Path(script).stem}_script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prints(main, folder, *flags):
    """Calls a script's main in this process with the flags of `command`; returns what it printed.

    Raises:
        UserError: what the script would report.
    """
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert not main(command("", folder, *flags)[2:])
    return output.getvalue()


def run(script, folder, *flags):
    """Runs a script to its end; returns its subprocess.CompletedProcess."""
    result = subprocess.run(command(script, folder, *flags), capture_output=True, text=True)
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


def signalled(number, after, script, folder, *flags):
    """Runs a script and sends it a signal once it has printed a line that begins with `after`.

    Returns:
        The exit status and all that it printed, errors included.
    """
    process = subprocess.Popen(command(script, folder, *flags), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    output = ""
    with process:
        for line in process.stdout:
            output += line
            if line.startswith(after):
                process.send_signal(number)
                break
        else:
            raise AssertionError(f"no line begins with {after!r}:\n{output}")
        output += process.stdout.read()
    assert "Traceback" not in output, output
    return process.returncode, output
