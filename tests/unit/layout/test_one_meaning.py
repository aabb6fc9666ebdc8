"""One name, one meaning: no public class of the product, and no alias of a type, has a name that another one has.

Who reads ``Partition`` or ``Verdict`` knows which one is meant without looking at the import.  Only :mod:`stele.sync` repeats names, on
purpose: its classes are the blocking mirrors of those in the client.  Generated code is left out.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.unit.layout.tree import PACKAGES, modules

MIRROR = "stele.sync"


def doubles(found: Iterable[tuple[str, Path]]) -> dict[str, list[str]]:
    """The public classes and aliases of types that more than one module defines, with these modules."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module, path in found:
        if module == MIRROR:
            continue
        for node in ast.parse(path.read_text(), str(path)).body:
            name = type_named(node)
            if name and not name.startswith("_"):
                homes[name].append(module)
    return {name: where for name, where in sorted(homes.items()) if len(where) > 1}


def type_named(node: ast.stmt) -> str:
    """The name of the class or the alias of a type that a statement defines; "" if it defines none."""
    if isinstance(node, ast.ClassDef):
        return node.name
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return ""
    name, value = node.targets[0].id, node.value
    is_variable = isinstance(value, ast.Call) and ast.unparse(value.func) == "TypeVar"
    return name if name[0].isupper() and not name.isupper() and not is_variable else ""


def test_every_public_class_has_a_name_of_its_own() -> None:
    assert doubles(pair for package in PACKAGES for pair in modules(package)) == {}


def test_a_double_name_is_seen(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("class Partition: ...\nclass _Partition: ...\n")
    second.write_text("class Partition: ...\nclass _Partition: ...\nclass Replica: ...\nT = TypeVar('T')\nRANGE = 1\n")
    found = [("stele.broker.a", first), ("stele.datanode.b", second), (MIRROR, second)]
    assert doubles(found) == {"Partition": ["stele.broker.a", "stele.datanode.b"]}
    second.write_text("Partition = tuple[str, int]\n")
    assert doubles(found) == {"Partition": ["stele.broker.a", "stele.datanode.b"]}
