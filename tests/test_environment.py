"""Making `.venv/`, in a copy of the project without packages to install."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import ROOT

from utils import environment, runtime
from utils.errors import UserError


def make_project(folder):
    (folder / "utils").mkdir(parents=True)
    for name in ("__init__.py", "environment.py", "errors.py"):
        shutil.copy(ROOT / "utils" / name, folder / "utils" / name)
    for name in (environment.REQUIREMENTS, *environment.FOR_TESTS):
        (folder / name).write_text("# nothing\n")
    return folder


def ensure(project, *flags, env=None, **variables):
    return subprocess.run(
        [sys.executable, "-m", "utils.environment", *flags], cwd=project, text=True,
        capture_output=True, env=env or {**os.environ, **variables})


def test_an_environment_is_made_once_updated_and_moved(tmp_path, poor_disk):
    project = make_project(tmp_path / "project")
    run = ensure(project, LD_PRELOAD=poor_disk)  # on a disk without links
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == str(project / ".venv/bin/python")
    assert not any(path.is_symlink() for path in (project / ".venv").rglob("*"))
    python = project / ".venv/bin/python"
    assert subprocess.run([python, "-m", "pip", "--version"]).returncode == 0
    assert ensure(project).stdout == f"{python}\n"

    more = "from utils import environment; print(environment.ensure(*environment.FOR_TESTS))"
    outputs = []
    for command in (more, more, "from utils import environment; print(environment.ensure())"):
        run = subprocess.run([sys.executable, "-c", command], cwd=project, capture_output=True,
                             text=True)
        outputs.append(run.stdout.splitlines())
    assert len(outputs[0]) > 1 and outputs[1:] == [[str(python)]] * 2

    (project / "requirements.txt").write_text("./absent-1.0-py3-none-any.whl\n")
    run = ensure(project)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: pip could not install the packages")
    assert "PIP_INDEX_URL" in run.stderr.splitlines()[-1]
    (project / "requirements.txt").write_text("# changed\n")
    run = ensure(project, PIP_USER="1", PIP_TARGET="/nowhere", PYTHONPATH="/nowhere")
    assert run.returncode == 0, run.stderr

    moved = project.rename(tmp_path / "moved")
    assert ensure(moved).returncode == 0
    assert f"VIRTUAL_ENV={moved}" in (moved / ".venv/bin/activate").read_text().replace('"', "")


def test_help_makes_nothing(tmp_path):
    project = make_project(tmp_path / "project")
    assert "--check" in ensure(project, "--help").stdout
    assert not (project / ".venv").exists()


def test_what_the_machine_lacks_is_named_with_the_command_that_installs_it():
    assert ensure(ROOT, "--check").stdout == "ok\n"
    run = ensure(ROOT, "--check", env={"PATH": "/nowhere"})
    assert run.stdout.startswith("missing: the C++ compiler g++")
    assert "g++" in run.stdout.split("run: ")[1]


@pytest.mark.parametrize("version", [(3, 7, 17), (3, 13, 0), (4, 0, 0)])
def test_unsupported_python_is_refused(monkeypatch, version):
    with monkeypatch.context() as patched:
        patched.setattr(environment.sys, "version_info", version)
        with pytest.raises(UserError, match=r"this is Python {}\.{}.* 3\.8 to 3\.12".format(
                *version)):
            environment.check_python()


def test_paths_with_a_space_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    project = make_project(tmp_path / "my projects")
    run = ensure(project)
    assert run.returncode == 2
    assert run.stderr == (f"error: {project}: Jittor cannot compile in a folder whose path has a "
                          "space; move the project\n")
    assert not (project / ".venv").exists()
    for odd in "()&;|'":
        with pytest.raises(UserError, match="whose path has the character [^ ]; move it"):
            environment.check_path(f"/home/L2SKNet{odd}1", "move it")
    environment.check_path("/home/\u7ea2\u5916/L2SKNet-main_1.0", "move it")
    monkeypatch.setattr(environment.sys, "prefix", "/a b/.venv")
    with pytest.raises(UserError, match="^/a b/.venv: Jittor cannot compile"):
        environment.check_python()
    monkeypatch.setenv("JITTOR_HOME", str(project))
    with pytest.raises(UserError, match="export JITTOR_HOME=/tmp"):
        runtime.jittor_home()


def test_python_config_knows_the_headers():
    includes = subprocess.run(
        [environment.python_config(), "--includes"], capture_output=True, text=True).stdout
    folders = [Path(word[2:]) for word in includes.split() if word.startswith("-I")]
    assert any((folder / "Python.h").is_file() for folder in folders)


def test_first_files_are_readable_by_an_old_python():
    for name in ("demo.py", "run_tests.py", "utils/environment.py", "utils/errors.py"):
        ast.parse((ROOT / name).read_text(), feature_version=(3, 6))
