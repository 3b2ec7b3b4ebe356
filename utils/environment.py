"""Prepares the machine for Jittor: compiler, Python headers, and the virtual environment `.venv/`.

Uses only the standard library and runs on any Python 3, because `demo.py` and `run_tests.py` start
here with whatever `python3` is. From the command line:

    python3 -m utils.environment            # makes .venv/ or updates its packages
    python3 -m utils.environment --check    # prints "ok", or what the machine lacks
"""

import contextlib
import ctypes.util
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig

from utils.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "l2sknet.installed")  # .venv/'s path, and what is installed there
PACKAGES = ("numpy", "scipy", "skimage", "PIL", "matplotlib", "tqdm")
REQUIREMENTS = "requirements.txt"
INTERRUPTED = "interrupted; the next run goes on"
FOR_TESTS = ("requirements-dev.txt", "requirements-onnx.txt", "requirements-video.txt")

# Jittor 1.3.11 needs NumPy 1.x, whose last wheels are for Python 3.12.
OLDEST, NEWEST = (3, 8), (3, 12)


def python_config() -> str:
    """The path of the `python3.X-config` that tells Jittor where the Python headers are, or ""."""
    name = "python{}.{}-config".format(*sys.version_info[:2])
    here = os.path.dirname(sys.executable)
    # Jittor's own order first, so that its compiled core is the same with and without us. Then the
    # folder of the interpreter that the virtual environment was made from (pyenv, /opt).
    paths = [os.path.join(here, name), sys.executable + "-config", "/usr/bin/" + name,
             "/usr/local/bin/" + name, os.path.join(here, "python3-config"),
             os.path.join(sys.base_prefix, "bin", name), shutil.which(name)]
    return next((path for path in paths if path and os.path.isfile(path)), "")


def check_tools(for_venv: bool = False) -> None:
    """Raises a UserError that names missing tools and the command that installs them."""
    version = "{}.{}".format(*sys.version_info[:2])
    missing = []
    if not shutil.which(os.environ.get("cc_path") or "g++"):
        missing.append("the C++ compiler g++")
    elif not ctypes.util.find_library("gomp"):
        missing.append("g++'s OpenMP library libgomp")
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.isfile(header) or not python_config():
        missing.append(f"the headers of Python {version} (Python.h)")
    if for_venv and not all(map(importlib.util.find_spec, ("ensurepip", "venv"))):
        missing.append("Python's venv module")
    if missing:
        sudo = "" if os.geteuid() == 0 else "sudo "
        if shutil.which("apt-get"):
            cure = f"{sudo}apt-get install -y g++ python{version}-dev python{version}-venv"
        elif shutil.which("dnf"):
            cure = f"{sudo}dnf install -y gcc-c++ python{version}-devel"
        else:
            cure = f"install g++ and the development files of Python {version}"
        raise UserError(f"missing: {', '.join(missing)}; run: {cure}")


def check_python() -> None:
    """Raises a UserError if the running Python is not supported."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise UserError(
            "this is Python {}.{}, but this project needs 3.8 to 3.12; install one (apt-get "
            "install python3.11-dev python3.11-venv, or conda create -n l2sknet python=3.11) and "
            "start this again with it".format(*sys.version_info[:2]))
    check_path(sys.prefix, "move this environment, or the project if it is the project's .venv")


def not_installed(name: str) -> UserError:
    """The error for a missing package."""
    return UserError(f"{name} is not installed for {sys.executable}; run `python3 -m "
                     "utils.environment`, then use .venv/bin/python (source .venv/bin/activate)")


def check_packages() -> None:
    """Raises a UserError if a package is missing that scripts need before Jittor."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise not_installed(name)


def end_script(error: UserError) -> None:
    """Ends the program with one line and status 2 if it is one of our scripts.

    A script whose imports fail cannot do this itself. For other programs it returns, so that they
    can catch the error.
    """
    script = os.path.realpath(sys.argv[0])
    ours = script.startswith(ROOT + os.sep) and not script.startswith(VENV + os.sep)
    if ours and os.path.isfile(script) or sys.argv[0] == "-m":  # while Python finds the module
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def check_path(path: str, cure: str) -> None:
    """Raises a UserError if a path has a character that Jittor does not quote in its commands."""
    odd = re.search(r"[\s()&;|<>'\"`$\\]", path)
    if odd:
        what = "a space" if odd[0].isspace() else f"the character {odd[0]}"
        raise UserError(f"{path}: Jittor cannot compile in a folder whose path has {what}; {cure}")


def commit() -> str:
    """The commit of this project by `git describe`; "" without git or checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return ""


def ensure(*more: str) -> str:
    """The path of `.venv/`'s python; makes `.venv/` or updates its packages first if need be.

    Args:
        more: files of requirements beside `REQUIREMENTS`.

    Raises:
        UserError: that is not possible on this machine.
    """
    installed = {}
    if os.path.isfile(STAMP) and os.path.isfile(VENV_PYTHON):
        with open(STAMP, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
        if lines[:1] == [VENV]:  # .venv/ holds absolute paths: it cannot be moved
            installed = dict(line.partition(" ")[::2] for line in lines[1:])
    wanted = {}
    for name in (REQUIREMENTS, *more, *installed):
        path = os.path.join(ROOT, name)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                wanted[name] = hashlib.sha256(file.read()).hexdigest()
    if wanted == installed:
        return VENV_PYTHON
    check_python()
    check_tools(for_venv=True)
    check_path(ROOT, "move the project")
    if not os.access(ROOT, os.W_OK):
        raise UserError(f"{ROOT}: cannot be written; copy the project to a folder of your own")
    print(f"Making the environment in {VENV}, once: a few minutes", flush=True)
    os.makedirs(VENV, exist_ok=True)
    if not os.path.lexists(os.path.join(VENV, "lib64")):
        try:
            os.symlink("lib", os.path.join(VENV, "lib64"))
        except OSError:  # venv would fail at this link, and copies all other files
            os.mkdir(os.path.join(VENV, "lib64"))
    programs = os.path.join(VENV, "bin")
    for name in os.listdir(programs) if os.path.isdir(programs) else ():
        path = os.path.join(programs, name)
        if os.path.islink(path) and not os.path.exists(path):  # of a Python that is gone
            os.remove(path)
    base = getattr(sys, "_base_executable", sys.executable)  # .venv's own python may run this
    if _run([base, "-m", "venv", VENV]):
        raise UserError(f"`{base} -m venv {VENV}` failed, see above; remove that folder first")
    # Python compiles what it imports; pip would compile all files, which takes a third of its time.
    command = [VENV_PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
    for name in wanted:
        command += ["-r", os.path.join(ROOT, name)]
    if _run(command):
        raise UserError(
            "pip could not install the packages, see above: check the network, or name a mirror, "
            "e.g. `export PIP_INDEX_URL=https://pypi.tuna.tsinghua.edu.cn/simple`, and run again; "
            f"if that does not help, remove {VENV}")
    with open(STAMP, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write("\n".join([VENV, *map(" ".join, wanted.items())]) + "\n")
    return VENV_PYTHON


def _run(command):
    # Without the variables that would send packages elsewhere.
    astray = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")
    environ = {name: value for name, value in os.environ.items() if name not in astray}
    return subprocess.call(command, cwd=ROOT, env=dict(environ, PIP_USER="0"))


def reexec(*more: str) -> None:
    """Starts the running script again in `.venv/`, which is made first if need be.

    Ends the process with one line and status 2 if that is not possible.

    Args:
        more: as in `ensure`.
    """
    try:
        python = ensure(*more)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(130)
    if os.path.realpath(sys.prefix) != os.path.realpath(VENV):
        sys.stdout.flush()
        os.execv(python, [python, *sys.argv])


def main(arguments: "list[str]") -> int:
    """Runs the command line; see the module's docstring."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    check = arguments == ["--check"]
    try:
        if check:
            check_python()
            check_tools(for_venv=True)
        print("ok" if check else ensure())
    except UserError as error:
        print(error if check else f"error: {error}", file=sys.stdout if check else sys.stderr)
        return 0 if check else 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
