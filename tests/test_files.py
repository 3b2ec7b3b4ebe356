"""Writing files: whole or not at all, on the disk where it matters, by one process."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest
from scripts import ROOT, SMALL, succeeds
from test_datasets import write

from utils.errors import UserError
from utils.files import atomic_path, link_or_copy, locked, remove_leftovers, write_text


def test_a_failed_write_names_the_file_and_leaves_the_one_before(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before")
    for error, says in ((OSError(errno.ENOSPC, "No space left on device"),
                         f"[Errno {errno.ENOSPC}] No space left on device: '{path}'"),
                        (OSError("encoder error -2"), f"{path}: encoder error -2"),
                        (FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/b"),
                         "[Errno 2] No such file: '/elsewhere/b'")):
        with pytest.raises(OSError) as raised, atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error
        assert str(raised.value) == says
    long = tmp_path / f"{'é' * 125}x.txt"  # of 255 bytes
    write_text(long, "long")
    long.unlink()
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_files_follow_the_umask_and_leave_it_alone(tmp_path, monkeypatch):
    before = os.umask(0o027)
    with monkeypatch.context() as patched:
        patched.setattr(os, "umask", None)  # it belongs to the process, and other threads write
        write_text(tmp_path / "a.txt", "a")
    assert os.umask(before) == 0o027
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_what_is_durable_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def spied_fsync(descriptor):
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def spied_replace(source, target):
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(os, "replace", spied_replace)
    write_text(tmp_path / "a.txt", "a", durable=True)
    content, renamed, folder = calls
    assert renamed == "replace" and folder == str(tmp_path)
    assert content.startswith(f"{tmp_path}/.a-")
    calls.clear()
    write_text(tmp_path / "a.txt", "b")
    assert calls == ["replace"]


def test_what_a_killed_writer_leaves_is_removed(tmp_path):
    code = ("import os, signal, sys; from utils.files import atomic_path\n"
            "with atomic_path(sys.argv[1]) as t:\n"
            "    t.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)")
    path = tmp_path / "a.npz"
    path.write_text("before")
    (tmp_path / ".a-notes.txt").touch()
    run = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT)
    assert run.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 3
    remove_leftovers(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a-notes.txt", "a.npz"]
    assert path.read_text() == "before"
    remove_leftovers(tmp_path / "none" / "a.npz")


def test_locked_process_is_in_a_folder(tmp_path):
    code = ("import os, sys, time; from utils.files import locked\n"
            "with locked(sys.argv[1]):\n"
            "    os.fork() or (print('in', flush=True), os.close(1), time.sleep(60), os._exit(0))\n"
            "    sys.stdin.read()")
    folder = tmp_path / "a" / "b"
    with subprocess.Popen([sys.executable, "-c", code, folder], cwd=ROOT, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(UserError, match="b: another process is training into this folder"):
            with locked(folder):
                pass
        other.kill()
    with locked(folder):  # the dead hold no locks, nor do the children that they leave
        pass


def test_a_disk_without_links_locks_and_flushed_folders_will_do(tmp_path, poor_disk, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", poor_disk)
    for split in "train", "test":
        write(tmp_path / "source", [(16, 16)] * 4, split)
    output = succeeds("prepare_dataset.py", tmp_path, tmp_path / "source", "--name", "Tiny")
    data = tmp_path / "data"
    assert f"{data}: cannot hold symbolic links, so the files were copied\n" in output
    assert output.startswith((data / "Tiny/prepared.txt").read_text())
    assert not any(path.is_symlink() for path in data.rglob("*"))
    for path in (tmp_path / "source").rglob("*.png"):
        assert (data / "Tiny" / path.parent.name / path.name).read_bytes() == path.read_bytes()
    succeeds("train_device0.py", tmp_path, "--epochs", 1, *SMALL)
    weights = tmp_path / "out/model/checkpoints/Tiny/L2SKNet_UNet"
    assert sorted(path.name for path in weights.iterdir()) == ["best.npz", "last.npz"]


def test_links_say_what_they_are_asked_to_and_replace_nothing(tmp_path):
    (tmp_path / "a").write_text("a")
    link_or_copy("a", tmp_path / "b")
    assert os.readlink(tmp_path / "b") == "a"
    with pytest.raises(FileExistsError):
        link_or_copy("b", tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        link_or_copy("a", tmp_path / "none" / "b")
