"""One module has one name: the folders at the top level are part of the package ``stele`` and of nothing else.

``stele/services`` is a link to ``services``, and likewise for the other folders, so that every tool finds the code under the name by
which it is imported.  The same file imported as ``services.x`` would be a second module, with classes of its own.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.layout.tree import PACKAGES, ROOT, files, imports, pyproject

INSIDE = tuple(name for name in PACKAGES if name != "stele" and (ROOT / name).is_dir())

LOAD_EVERYTHING = """
import importlib, json, pkgutil, sys
import stele
for found in pkgutil.walk_packages(stele.__path__, "stele."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
json.dump({name: module.__file__ for name, module in sys.modules.items() if getattr(module, "__file__", None)}, sys.stdout)
"""


@pytest.mark.parametrize("folder", INSIDE)
def test_every_folder_stands_in_the_package(folder: str) -> None:
    link = ROOT / "stele" / folder
    assert link.is_symlink()
    assert os.readlink(link) == f"../{folder}"


def test_everything_is_imported_by_its_one_name() -> None:
    wrong = [
        f"{path} imports {name}"
        for path in files()
        if path.suffix == ".py"
        for name in sorted(imports(ROOT / path, ".".join(path.with_suffix("").parts)))
        if name.partition(".")[0] in INSIDE
    ]
    assert wrong == []


def test_no_text_names_a_module_by_another_name() -> None:
    """Modules that are named in strings (patched in tests, started with -m) exist under the name given."""
    wrong = [
        f"{path}:{node.lineno} {node.value}"
        for path in files()
        if path.suffix == ".py"
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and names_a_folder(node.value)
    ]
    assert wrong == []


def names_a_folder(text: str) -> bool:
    """Whether ``text`` is the dotted name of something that stands in one of the folders, without ``stele.``."""
    parts = text.partition(":")[0].split(".")
    if len(parts) < 2 or parts[0] not in INSIDE or not all(part.isidentifier() for part in parts):
        return False
    folder = ROOT / parts[0]
    return (folder / parts[1]).is_dir() or (folder / f"{parts[1]}.py").is_file()


def test_a_name_without_the_package_is_seen() -> None:
    assert names_a_folder(".".join(["services", "errors"]))
    assert not names_a_folder("stele.services.errors")
    assert not names_a_folder("services.nothing")


def test_no_file_is_loaded_twice() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_EVERYTHING], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    )
    loaded: dict[str, str] = json.loads(done.stdout)
    names: dict[Path, list[str]] = {}
    for name, file in loaded.items():
        if (path := Path(file).resolve()).is_relative_to(ROOT) and ".venv" not in path.parts:
            names.setdefault(path, []).append(name)
    assert len(names) > 100
    twice = {str(path.relative_to(ROOT)): found for path, found in names.items() if len(found) != 1}
    assert twice == {}
    assert sorted(name for found in names.values() for name in found if name.partition(".")[0] != "stele") == []


def test_every_package_of_the_tree_is_installed() -> None:
    """A folder without ``__init__.py`` works in the tree and is missing once installed."""
    found = pyproject()["tool"]["setuptools"]["packages"]["find"]
    assert found["include"] == ["stele", "stele.*"]
    folders = {path.parent for path in files() if path.suffix == ".py" and path.parts[0] in PACKAGES}
    assert sorted(str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()) == []
