"""Public functions say what they take and return; only tests and what begins with _ need not."""

from __future__ import annotations

import ast

import pytest
from scripts import ROOT
from test_rooms import MODULES


def public_functions(body, prefix=""):
    """(qualified name, node) of the functions and methods that others may call."""
    for node in body:
        if node.__class__ not in (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef):
            continue
        if node.name.startswith("_") and not node.name.endswith("__"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node.body, f"{prefix}{node.name}.")
        else:
            yield prefix + node.name, node


def unannotated(name, function):
    """What a function does not say the type of; __init__ returns nothing, and need not say so."""
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod"
                 for d in function.decorator_list)
    if "." in name and not static:
        given = given[1:]  # self or cls
    given += filter(None, (*arguments.kwonlyargs, arguments.vararg, arguments.kwarg))
    missing = [argument.arg for argument in given if argument.annotation is None]
    if function.returns is None and function.name != "__init__":
        missing.append("return")
    return missing


def problems(source):
    return [f"{function.lineno}: {name}: {', '.join(unannotated(name, function))}"
            for name, function in public_functions(ast.parse(source).body)
            if unannotated(name, function)]


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_are_annotated(module):
    path = MODULES[module]
    assert not problems(path.read_text("utf-8")), path.relative_to(ROOT)


def test_what_counts_as_annotated():
    source = """
def f(a: int, b, *c, d, **e): ...
def _private(a): ...
class A:
    def __init__(self, a): ...
    def method(self, a: int): ...
    @staticmethod
    def static(a) -> int: ...
    def _private(self, a): ...
class _B:
    def method(self, a): ...
def g(a: int, *b: int, c: int = 0, **d: int) -> None:
    def inner(x): ...
"""
    assert problems(source) == [
        "2: f: b, d, c, e, return", "5: A.__init__: a", "6: A.method: return", "8: A.static: a"]
