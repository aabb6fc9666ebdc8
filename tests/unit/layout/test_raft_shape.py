"""The replica is composed: its parts inherit from one another nowhere, one file knows the library, constructors say what they take."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.unit.layout.tree import ROOT

MODULES = sorted((ROOT / "services" / "raft").glob("*.py"))


def classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]


def test_no_part_inherits_from_another() -> None:
    own = {kind.name: kind for path in MODULES for kind in classes(path)}
    protocols = {name for name, kind in own.items() if any(ast.unparse(base) == "Protocol" for base in kind.bases)}
    wrong = {
        name: inherited
        for name, kind in own.items()
        if (inherited := [b for base in kind.bases if (b := ast.unparse(base)) in own.keys() - protocols])
    }
    assert wrong == {}


def test_one_file_knows_the_library() -> None:
    assert [path.name for path in MODULES if "SyncObj" in path.read_text()] == ["pysyncobj_adapter.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_constructors_say_what_they_take(path: Path) -> None:
    wrong = []
    for kind in classes(path):
        for method in kind.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                taken = ast.unparse(method.args)
                if "Any" in taken or method.args.vararg is not None or method.args.kwarg is not None:
                    wrong.append(f"{kind.name}({taken})")
    assert wrong == []
