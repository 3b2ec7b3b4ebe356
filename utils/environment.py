"""The machine and the virtual environment: what Jittor needs before it can be imported.

Standard library only, and readable by Pythons older and newer than the supported ones, because
`demo.py` and `run_tests.py` start here on whatever `python3` happens to be. By hand:

    python3 -m utils.environment        # makes or repairs .venv/, then prints its python
"""

import contextlib
import ctypes.util
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile

from utils.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "l2sknet.stamp")
PACKAGES = ("numpy", "scipy", "skimage", "PIL", "matplotlib", "tqdm")
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt", "requirements-onnx.txt")

# Jittor 1.3.11 needs NumPy 1.x, whose last wheels are for Python 3.12.
OLDEST, NEWEST = (3, 9), (3, 12)


def python_config() -> str:
    """The `python3.X-config` from which Jittor is to learn where the Python headers are.

    First where Jittor looks by itself, so that its compiled core stays the same with and without
    us; then beside the interpreter that the virtual environment was made from (pyenv, /opt).

    Returns:
        Its path, or "" if there is none.
    """
    name = "python{}.{}-config".format(*sys.version_info[:2])
    here = os.path.dirname(sys.executable)
    paths = [os.path.join(here, name), sys.executable + "-config", "/usr/bin/" + name,
             "/usr/local/bin/" + name, os.path.join(here, "python3-config"),
             os.path.join(sys.base_prefix, "bin", name), shutil.which(name)]
    return next((path for path in paths if path and os.path.isfile(path)), "")


def missing_tools(for_venv: bool = False) -> "list[str]":
    """What this machine lacks to compile Jittor (and to make a virtual environment).

    Returns:
        Short descriptions, empty if nothing is missing.
    """
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    missing = []
    if not shutil.which(os.environ.get("cc_path") or "g++"):
        missing.append("the C++ compiler g++")
    elif not ctypes.util.find_library("gomp"):
        missing.append("g++'s OpenMP library libgomp")
    if not os.path.isfile(header) or not python_config():
        missing.append("the headers of Python {}.{} (Python.h)".format(*sys.version_info[:2]))
    if for_venv:
        try:
            import ensurepip  # noqa: F401
            import venv  # noqa: F401
        except ImportError:
            missing.append("Python's venv module")
    return missing


def install_hint() -> str:
    """The command that installs what `missing_tools` can name, on this kind of Linux."""
    version = "{}.{}".format(*sys.version_info[:2])
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get"):
        return f"{sudo}apt-get install -y g++ python{version}-dev python{version}-venv"
    if shutil.which("dnf"):
        return f"{sudo}dnf install -y gcc-c++ python{version}-devel"
    return f"install g++ and the development files of Python {version}"


def check_tools(for_venv: bool = False) -> None:
    """Raises a UserError naming what is missing and the command that installs it."""
    missing = missing_tools(for_venv)
    if missing:
        raise UserError(f"missing: {', '.join(missing)}; run: {install_hint()}")


def check_python() -> None:
    """Raises a UserError if the running Python is not a supported one."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise UserError(
            "this is Python {}.{}, and Jittor needs 3.9 to 3.12: install one (apt-get install "
            "python3.11-dev python3.11-venv, or conda create -n l2sknet python=3.11) and start "
            "again with it".format(*sys.version_info[:2]))
    _check_path(sys.prefix, "move it, or the project if it belongs to that")


def check_packages() -> None:
    """Raises a UserError if the running Python lacks a package that scripts need without Jittor."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise not_installed(name)


def not_installed(name: str) -> UserError:
    """What the user reads where a package is missing."""
    return UserError(f"{name} is not installed for {sys.executable}: run `python3 -m "
                     "utils.environment`, then use .venv/bin/python (source .venv/bin/activate)")


def _check_path(path, cure):
    if len(path.split()) > 1:
        raise UserError(f"{path}: Jittor cannot compile in a folder whose path has a space: {cure}")


def jittor_home() -> str:
    """The folder in whose `.cache/jittor` Jittor compiles: $JITTOR_HOME, or the user's home.

    Jittor itself needs a writable home even with $JITTOR_HOME, and writes that into
    `~/.cache/jittor/config.json` for all later runs. `utils.runtime` hands it the folder as its
    $HOME instead, so that nothing is remembered and a read-only home does not matter.

    Returns:
        The folder, absolute.

    Raises:
        UserError: nothing can be written there.
    """
    user_home = os.path.expanduser("~")
    remembered = {}
    with contextlib.suppress(OSError, ValueError):
        with open(os.path.join(user_home, ".cache", "jittor", "config.json")) as file:
            remembered = json.load(file)
    home = os.path.abspath(
        os.environ.get("JITTOR_HOME") or remembered.get("JITTOR_HOME") or user_home)
    _check_path(home, "export JITTOR_HOME=/tmp/jittor-$USER")
    cache = os.path.join(home, ".cache", "jittor")
    try:
        os.makedirs(cache, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache) as file:
            if not _has_locks(file):
                os.environ["disable_lock"] = "1"  # read by Jittor, which would stop at its lock
    except OSError as error:
        raise UserError(
            f"Jittor cannot keep its compiled code in {cache} ({error.strerror}): choose a folder "
            "that can be written, `export JITTOR_HOME=/tmp/jittor-$USER`, or if another user "
            f"owns this one, `sudo chown -R $USER {cache}`") from None
    return home


def _has_locks(file):
    """Whether the file system has both kinds of locks: network and shared folders may not."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_UN)
        fcntl.lockf(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


# ------------------------------------------------------------------- the virtual environment


def commit() -> str:
    """The state of this project by git; "" where there is no git, or no checkout."""
    try:
        return _output(["git", "describe", "--always", "--dirty"])
    except (OSError, subprocess.SubprocessError):
        return ""


def ensure() -> str:
    """Makes `.venv/` with the packages of requirements*.txt, or mends it; quick when it is fine.

    Returns:
        The path of its python.

    Raises:
        UserError: it cannot be made on this machine; says what to do.
    """
    if _is_complete():
        return VENV_PYTHON
    with _lock():
        if not _is_complete():  # another process may have made it while this one waited
            _make()
    return VENV_PYTHON


def reexec() -> None:
    """Goes on in `.venv/`: makes it if need be, then starts the running script again in it.

    Ends the process with a line on stderr and status 2 where that cannot be done.
    """
    inside = os.path.realpath(sys.prefix) == os.path.realpath(VENV)
    try:
        if inside and _is_complete():
            return
        python = ensure()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the next run starts afresh", file=sys.stderr)
        sys.exit(130)
    sys.stdout.flush()
    os.execv(python, [python, *sys.argv])


def _make():
    if not os.access(ROOT, os.W_OK):
        raise UserError(f"{ROOT} cannot be written: copy the project to a folder of your own")
    _check_path(ROOT, "move the project")
    jittor_home()  # needed later, but better said before the downloads
    # The stamp is absent (an environment of the user's own: keep it, add packages), "unfinished"
    # (interrupted at any point: start afresh), or tells what the environment was made for.
    version, stamp = _version_in_venv(), _read_stamp()
    if version is None or (stamp is not None and stamp.get("for") != _purpose(version)):
        base = _find_python()
        print(f"Making the environment in {VENV}, once: a few minutes", flush=True)
        if os.path.lexists(VENV):
            _remove(VENV)
        os.makedirs(VENV)
        lib64 = os.path.join(VENV, "lib64")
        try:
            os.symlink("lib", lib64)
            os.remove(lib64)
        except OSError:  # venv would stop where it makes this link; it copies the other files
            print("No symbolic links can be made here: files are copied", flush=True)
            os.mkdir(lib64)
        _write_stamp({"for": "unfinished"})
        if _call([base, "-m", "venv", VENV]):
            raise UserError(f"`{base} -m venv {VENV}` failed, see above")
    else:
        print(f"Updating the packages in {VENV}", flush=True)
    command = [VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check"]
    for name in REQUIREMENTS:
        command += ["-r", os.path.join(ROOT, name)]
    if _call(command):
        raise UserError(
            "pip could not install the packages, see above: check the network, or name a mirror, "
            "e.g. `export PIP_INDEX_URL=https://pypi.tuna.tsinghua.edu.cn/simple`, and run again")
    _write_stamp({"for": _purpose(_version_in_venv()), "requirements": _requirements()})


def _is_complete():
    stamp = _read_stamp()
    if not stamp or stamp.get("requirements") != _requirements():
        return False
    version = _version_in_venv()
    return version is not None and stamp.get("for") == _purpose(version)


def _purpose(version):
    """What an environment is good for: one place (it holds absolute paths) and one Python."""
    return f"{VENV} {version}"


def _requirements():
    digest = hashlib.sha256()
    for name in REQUIREMENTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def _version_in_venv():
    """The version of `.venv`'s python, "3.11"; None if it is gone or does not start."""
    try:
        return _output([VENV_PYTHON, "-I", "-S", "-c",
                        "import sys; print('%d.%d' % sys.version_info[:2])"])
    except (OSError, subprocess.CalledProcessError):
        return None


def _find_python():
    """A supported Python with all that is needed to make the environment and compile Jittor.

    Raises:
        UserError: there is none; says what the most suitable one lacks.
    """
    own = sys.executable
    if sys.prefix != sys.base_prefix:  # in an environment, perhaps the one to be replaced
        own = os.path.join(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info[:2]))
    minors = range(NEWEST[1], OLDEST[1] - 1, -1)
    complaints = []
    for python in [own] + [shutil.which(f"python3.{minor}") for minor in minors]:
        if not python:
            continue
        try:
            # Asked in the candidate itself: only it knows its version, headers and modules.
            answer = _output([python, "-m", "utils.environment", "--check"])
        except (OSError, subprocess.CalledProcessError):
            continue  # pyenv's stand-in for a version that is not active, for instance
        if answer == "ok":
            return python
        complaints.append(answer)
    # A supported Python that lacks something is nearer to the goal than an unsupported one.
    complaints.sort(key=lambda text: not text.startswith("missing"))
    raise UserError(complaints[0] if complaints else f"{own} does not start")


@contextlib.contextmanager
def _lock():
    """Holds the project's folder locked; locking the folder itself leaves no file behind."""
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another process that makes the environment", flush=True)
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(folder)


def _read_stamp():
    try:
        with open(STAMP) as file:
            return json.load(file)
    except OSError:
        return None
    except ValueError:
        return {}


def _write_stamp(stamp):
    with open(STAMP + ".new", "w") as file:
        json.dump(stamp, file)
    os.replace(STAMP + ".new", STAMP)


def _remove(path):
    if os.path.islink(path) or not os.path.isdir(path):
        os.remove(path)
    else:
        shutil.rmtree(path)


def _environ():
    """Our variables without those that would lead a new environment's python or pip astray."""
    astray = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")
    return dict({k: v for k, v in os.environ.items() if k not in astray}, PIP_USER="0")


def _output(command):
    text = subprocess.check_output(
        command, cwd=ROOT, env=_environ(), stderr=subprocess.DEVNULL, timeout=60)
    return text.decode().strip()


def _call(command):
    return subprocess.call(command, cwd=ROOT, env=_environ())


def main(arguments: "list[str]") -> int:
    """The command line: makes the environment; `--check` tells what the running Python lacks."""
    if arguments == ["--check"]:
        try:
            check_python()
            check_tools(for_venv=True)
            print("ok")
        except UserError as error:
            print(error)
        return 0
    try:
        print(ensure())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
