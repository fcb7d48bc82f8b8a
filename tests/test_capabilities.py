"""The page of capabilities: every row is there, and everything that it names exists."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pyprune_fast import cli

ROOT = Path(__file__).resolve().parents[1]
ROWS = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", (ROOT / "docs" / "capabilities.md").read_text(), re.M)


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


def resolve(name: str) -> Any:
    """What a dotted name inside the package is: a module, or an attribute of one."""
    found: Any = importlib.import_module("pyprune_fast")
    path = "pyprune_fast"
    for part in name.split("."):
        path = f"{path}.{part}"
        if not hasattr(found, part):
            importlib.import_module(path)
        found = getattr(found, part)
    return found


def check(name: str) -> None:
    if name.startswith("pyprune-fast "):
        _, command, *flags = name.split()
        known = {option for action in commands()[command]._actions for option in action.option_strings}
        assert set(flags) <= known, name
    elif name.startswith("make "):
        assert re.search(rf"^{name.removeprefix('make ')}:", (ROOT / "Makefile").read_text(), re.M), name
    elif "/" in name:
        assert (ROOT / name).is_file(), name
    else:
        dotted, _, argument = name.removesuffix("=)").partition("(")
        found = resolve(dotted)
        assert not argument or argument in inspect.signature(found).parameters, name


def test_every_row_is_there_once_and_in_order() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 42))


@pytest.mark.parametrize(("number", "by", "shown"), [(number, by, shown) for number, _, by, shown in ROWS])
def test_what_a_row_names_exists(number: str, by: str, shown: str) -> None:
    assert names(by), number
    for name in names(by):
        check(name)
    assert names(shown), number
    for test in names(shown):
        path, _, function = test.partition("::")
        assert function in functions(path), test


@pytest.mark.parametrize(
    "name", ["prune.nothing", "pyprune-fast gate --nothing", "make nothing", "docs/nothing.md", "prune.gate(nothing=)"]
)
def test_what_does_not_exist_is_found_out(name: str) -> None:
    with pytest.raises((AssertionError, ModuleNotFoundError)):
        check(name)
