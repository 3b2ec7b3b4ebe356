"""The order of the rooms, docs/house.md: who may import whom, and what starts Jittor."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest
from scripts import ROOT

ORDER = re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs" / "house.md").read_text("utf-8"), re.M)
PACKAGES = ("evaluation", "utils", "model", "alignment", "benchmarks")
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
ABOVE = "above"  # scripts and __main__: they may import everything, and nothing imports them
ALLOWED = {"evaluation": {"evaluation"}, "model": {"model", "utils.errors", "utils.runtime"}}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path
           for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
MODULES.update((name, ROOT / f"{name}.py") for name in SCRIPTS)


def room_of(module):
    """The room of a module: the longest name of ORDER that it begins with."""
    if module in SCRIPTS or module.endswith("__main__"):
        return ABOVE
    rooms = [room for room in ORDER if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def imports(path):
    """(line, module) of all imports of ours in a file, those inside functions included."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (base, node.module) if part)
            names = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else base for name in names]
        else:
            continue
        yield from ((node.lineno, name) for name in names
                    if name.partition(".")[0] in (*PACKAGES, *SCRIPTS))


def test_every_module_has_a_room_and_every_room_a_module():
    homeless = [name for name in MODULES if room_of(name) is None and name != "utils"]
    assert not homeless
    assert set(ORDER) == {room_of(name) for name in MODULES} - {ABOVE, None}


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) != ABOVE])
def test_imports_come_from_the_same_room_or_one_before(module):
    if module == "utils":  # the folder itself holds nothing
        assert not MODULES[module].read_text("utf-8").strip()
        return
    room = room_of(module)
    for line, name in imports(MODULES[module]):
        other = room_of(name)
        where = f"{MODULES[module].relative_to(ROOT)}:{line} imports {name}"
        assert other is not None and other != ABOVE, where
        assert ORDER.index(other) <= ORDER.index(room), f"{where}, of a later room"
        assert other in ALLOWED.get(room, ORDER), where


def test_only_the_networks_import_jittor_by_name():
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "utils.runtime":
                by_name = [alias.name for alias in node.names if alias.name == "jt"]
                assert not by_name or room_of(name) == "model", f"{name}:{node.lineno}"


def test_importing_scripts_and_utils_does_not_start_jittor():
    names = [name for name in MODULES
             if name.startswith(("utils", "evaluation", "benchmarks")) or name in SCRIPTS]
    names = [name for name in names if not name.endswith("__main__")]
    names.remove("test")  # Python's own tests have the name; by its path below
    code = ("import importlib, runpy, sys\n"
            f"for name in {names!r}: importlib.import_module(name)\n"
            "runpy.run_path('test.py', run_name='the script')\n"
            "print([name for name in sys.modules if name.startswith('jittor')])")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert result.stdout == "[]\n", result.stderr
