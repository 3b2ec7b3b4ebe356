"""Shared fixtures: where the real dataset and the fixtures lie."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
# As notebooks do; our environment has no such module, and no figure may want it.
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"


@pytest.fixture(scope="session")
def cpu():
    """Jittor, started on the CPU."""
    from utils.runtime import start

    start("cpu")


def real_dataset(name: str, variable: str, file: str) -> Path:
    """The folder of a real dataset: data/NAME, or what the variable names; skips without `file`."""
    folder = Path(os.environ.get(variable, ROOT / "data" / name))
    if not (folder / file).is_file():
        pytest.skip(f"the real {name} is not at {folder} (set {variable} to its folder)")
    return folder


@pytest.fixture(scope="session")
def nudt() -> Path:
    """The folder of the real NUDT-SIRST."""
    return real_dataset("NUDT-SIRST", "NUDT_SIRST", "images/000001.png")


@pytest.fixture(scope="session")
def nuaa() -> Path:
    """The folder of the real NUAA-SIRST as published, with img_idx/."""
    return real_dataset("NUAA-SIRST", "NUAA_SIRST", "masks/Misc_111_pixels0.png")


@pytest.fixture
def prepare_script(tmp_path, capsys):
    """prepare_dataset.py's main with data/ and out/ in a folder of its own; returns the output."""
    import prepare_dataset

    def run(*flags):
        capsys.readouterr()
        prepare_dataset.main([*map(str, flags), "--dataset_dir", str(tmp_path / "data"),
                              "--output_dir", str(tmp_path / "out")])
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="session")
def weights(cpu, tmp_path_factory) -> Path:
    """A file of weights by which L2SKNet_UNet finds what is bright."""
    from brightness import save_brightness_weights

    return save_brightness_weights(tmp_path_factory.mktemp("weights") / "brightness.npz")


@pytest.fixture
def predicts(weights):
    """test.py's main with these weights."""
    from scripts import load

    main = load("test.py").main
    return lambda *flags: main([*map(str, ("--device", "cpu", "--weights", weights, *flags))])


@pytest.fixture(scope="session")
def poor_disk(tmp_path_factory) -> str:
    """What $LD_PRELOAD names to make any disk one without links and locks, see poor_files.c."""
    library = tmp_path_factory.mktemp("poor") / "poor.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-x", "c", ROOT / "tests" / "poor_files.c",
                    "-o", library], check=True)
    return str(library)
