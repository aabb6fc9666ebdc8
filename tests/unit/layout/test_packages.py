"""Each package says what is in it, who may use it and where to begin."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.unit.layout.tree import PACKAGES, ROOT, files

WORDS_MIN = 40
GENERATED = Path("services/pb")


def packages() -> list[Path]:
    """The folders of the product with modules of their own; of the tests and benchmarks the top ones."""
    found = {path.parent for path in files() if path.name == "__init__.py"}
    kept = [
        p
        for p in found
        if p.parts[0] in PACKAGES or p.parts[0] == "benchmarks" or (p.parts[0] == "tests" and len(p.parts) < 3)
    ]
    return sorted(set(kept) - {GENERATED})


@pytest.mark.parametrize("package", packages(), ids=str)
def test_a_package_says_what_is_in_it(package: Path) -> None:
    said = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""
    assert len(said.split()) >= WORDS_MIN, "a package's docstring says what is in it, who may use it and where to begin"
    inside = {path.stem for path in (ROOT / package).glob("*.py")} | {
        path.parent.name for path in (ROOT / package).glob("*/__init__.py")
    }
    named = {name.removesuffix(".py").rpartition(".")[2] for name in re.findall(r"``([\w.]+?)(?:\.py)?``", said)}
    assert named & (inside - {"__init__", "__main__"}), "it names the module to begin with"
