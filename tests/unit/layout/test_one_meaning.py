"""One name, one meaning: no public class of the product has a name that another one has.

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
    """The public classes that more than one module defines, with these modules."""
    homes: dict[str, list[str]] = defaultdict(list)
    for module, path in found:
        if module == MIRROR:
            continue
        for node in ast.parse(path.read_text(), str(path)).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module)
    return {name: where for name, where in sorted(homes.items()) if len(where) > 1}


def test_every_public_class_has_a_name_of_its_own() -> None:
    assert doubles(pair for package in PACKAGES for pair in modules(package)) == {}


def test_a_double_name_is_seen(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("class Partition: ...\nclass _Partition: ...\n")
    second.write_text("class Partition: ...\nclass _Partition: ...\nclass Replica: ...\n")
    found = [("stele.broker.a", first), ("stele.datanode.b", second), (MIRROR, second)]
    assert doubles(found) == {"Partition": ["stele.broker.a", "stele.datanode.b"]}
