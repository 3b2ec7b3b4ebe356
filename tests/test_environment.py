"""Making and mending `.venv/`, in a copy of the project without packages to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from utils import environment
from utils.errors import UserError

ROOT = Path(environment.ROOT)


def make_project(folder):
    (folder / "utils").mkdir(parents=True)
    for name in ("__init__.py", "environment.py", "errors.py"):
        shutil.copy(ROOT / "utils" / name, folder / "utils" / name)
    for name in environment.REQUIREMENTS:
        (folder / name).write_text("# nothing\n")
    return folder


def ensure(project, **variables):
    return subprocess.run(
        [sys.executable, "-m", "utils.environment"], cwd=project, text=True, capture_output=True,
        env={**os.environ, **variables})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose environment was made once."""
    project = make_project(tmp_path_factory.mktemp("environment") / "project")
    run = ensure(project)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == str(project / ".venv/bin/python")
    (project / ".venv/witness").touch()  # does not survive a rebuild
    return project


def test_second_run_does_nothing(made):
    stamp = made / ".venv/l2sknet.stamp"
    before = stamp.stat()
    run = ensure(made)
    assert run.stdout == f"{made}/.venv/bin/python\n"
    assert stamp.stat().st_mtime_ns == before.st_mtime_ns


def test_environment_is_isolated_from_variables_that_mislead_pip(made):
    (made / "requirements.txt").write_text("# changed\n")
    run = ensure(made, PIP_USER="1", PIP_TARGET="/nowhere", PYTHONPATH="/nowhere")
    assert run.returncode == 0, run.stderr


def test_changed_requirements_update_without_a_rebuild(made):
    (made / "requirements.txt").write_text("# changed again\n")
    assert "Updating the packages" in ensure(made).stdout
    assert (made / ".venv/witness").exists()
    assert len(ensure(made).stdout.splitlines()) == 1


def test_failed_install_tells_the_cure_and_the_next_run_succeeds(made):
    (made / "requirements.txt").write_text("./absent-1.0-py3-none-any.whl\n")
    run = ensure(made)
    assert run.returncode == 2
    assert "PIP_INDEX_URL" in run.stderr.splitlines()[-1]
    (made / "requirements.txt").write_text("# mended\n")
    assert ensure(made).returncode == 0


def test_interrupted_environment_is_made_afresh_by_one_of_two_processes(tmp_path):
    project = make_project(tmp_path / "project")
    (project / ".venv/lib").mkdir(parents=True)
    (project / ".venv/lib/debris").touch()
    (project / ".venv/l2sknet.stamp").write_text('{"for": "unfinished"}')
    command = [sys.executable, "-m", "utils.environment"]
    both = [subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Making the environment" in output for output in outputs) == 1
    assert not (project / ".venv/lib/debris").exists()


def test_a_project_on_a_disk_without_links_and_locks_gets_its_environment(tmp_path, poor_disk):
    run = ensure(make_project(tmp_path / "project"), LD_PRELOAD=poor_disk)
    assert run.returncode == 0, run.stderr
    assert "No symbolic links can be made here: files are copied\n" in run.stdout
    venv = tmp_path / "project/.venv"
    assert not any(path.is_symlink() for path in venv.rglob("*"))
    assert subprocess.run([venv / "bin/python", "-m", "pip", "--version"]).returncode == 0


def test_moved_project_gets_its_own_environment(made, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(made, moved, symlinks=True)
    run = ensure(moved)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == str(moved / ".venv/bin/python")
    assert not (moved / ".venv/witness").exists()
    pip = (moved / ".venv/bin/pip").read_text()
    assert str(moved) in pip and str(made) not in pip


def test_vanished_base_python_is_noticed(made, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(made, broken, symlinks=True)
    for link in (broken / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")
    assert ensure(broken).returncode == 0
    assert subprocess.run([broken / ".venv/bin/python", "-c", ""]).returncode == 0


def test_home_that_cannot_be_written_is_noticed_before_the_downloads(tmp_path):
    project = make_project(tmp_path / "project")
    run = ensure(project, HOME="/proc/read-only", JITTOR_HOME="")
    assert run.returncode == 2
    assert run.stderr.startswith("error: Jittor cannot keep its compiled code in /proc/read-only/")
    assert "export JITTOR_HOME=" in run.stderr and run.stderr.count("\n") == 1
    assert not (project / ".venv").exists()


def test_missing_compiler_is_named_with_the_command_that_installs_it():
    run = subprocess.run(
        [sys.executable, "-m", "utils.environment", "--check"], cwd=ROOT, text=True,
        capture_output=True, env={"PATH": "/nowhere"})
    assert run.stdout.startswith("missing: the C++ compiler g++")
    assert "g++" in run.stdout.split("run: ")[1]


def test_this_machine_lacks_nothing():
    environment.check_python()
    environment.check_tools(for_venv=True)


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 13, 0), (4, 0, 0)])
def test_unsupported_python_is_refused(monkeypatch, version):
    with monkeypatch.context() as patched:
        patched.setattr(environment.sys, "version_info", version)
        with pytest.raises(UserError, match=r"this is Python {}\.{}.* 3\.9 to 3\.12".format(
                *version)):
            environment.check_python()


def test_paths_with_a_space_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    project = tmp_path / "my projects"
    shutil.copytree(ROOT / "utils", project / "utils", ignore=shutil.ignore_patterns("*.pyc"))
    run = subprocess.run([sys.executable, "-m", "utils.environment"], cwd=project, text=True,
                         capture_output=True)
    assert run.returncode == 2
    assert run.stderr == (f"error: {project}: Jittor cannot compile in a folder whose path has a "
                          "space: move the project\n")
    assert not (project / ".venv").exists()
    monkeypatch.setattr(environment.sys, "prefix", "/a b/.venv")
    with pytest.raises(UserError, match="^/a b/.venv: Jittor cannot compile"):
        environment.check_python()
    monkeypatch.setenv("JITTOR_HOME", str(project))
    with pytest.raises(UserError, match="export JITTOR_HOME=/tmp"):
        environment.jittor_home()


def test_python_config_knows_the_headers():
    includes = subprocess.run(
        [environment.python_config(), "--includes"], capture_output=True, text=True).stdout
    folders = [Path(word[2:]) for word in includes.split() if word.startswith("-I")]
    assert any((folder / "Python.h").is_file() for folder in folders)


@pytest.mark.parametrize("name", ["demo.py", "run_tests.py", "utils/environment.py"])
def test_first_files_are_readable_by_an_old_python(name):
    import ast

    ast.parse((ROOT / name).read_text(), feature_version=(3, 6))
