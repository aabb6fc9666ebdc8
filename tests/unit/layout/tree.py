"""The source tree as the layout tests see it: its files, its packages, and who imports whom."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("services", "nameserver", "datanode", "broker", "stele", "lab", "console")  # folders at the top level


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def files() -> tuple[Path, ...]:
    """Every file of the project, relative to its root: what git tracks or would; all of it where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        found = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    else:
        hidden = (".venv", ".stele", ".git", "__pycache__")
        found = [p.relative_to(ROOT) for p in ROOT.rglob("*") if not any(part in hidden for part in p.parts)]
    return tuple(sorted(p for p in set(found) if (ROOT / p).is_file()))


def modules(package: str) -> Iterator[tuple[str, Path]]:
    """Dotted names and files of the modules in a top-level folder, generated ones left out."""
    for path in files():
        if path.suffix == ".py" and path.parts[0] == package and path.parts[:2] != ("services", "pb"):
            parts = path.with_suffix("").parts if package == "stele" else ("stele", *path.with_suffix("").parts)
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), ROOT / path


def path_of(module: str) -> Path:
    """The file of a module that is not a package, in the folder where it stands."""
    parts = module.removeprefix("stele.").split(".")
    inside = Path(*parts).with_suffix(".py")
    return ROOT / inside if parts[0] in PACKAGES else ROOT / "stele" / inside


def folder_of(imported: str) -> str | None:
    """The top-level folder that an imported name of the project leads into; None for other names."""
    top, _, rest = imported.partition(".")
    if top != "stele":
        return None
    inner = rest.partition(".")[0]
    return inner if inner in PACKAGES else "stele"


def imports(path: Path, module: str, at_import: bool = False) -> set[str]:
    """Dotted names that a module imports, wherever in it; `from a import b` counts as `a` and `a.b`.  With ``at_import`` only those that
    importing it loads: none inside a function, under TYPE_CHECKING or where it is run as the main module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return set(_imports(path.read_text(), package, at_import))


@cache
def _imports(text: str, package: str, at_import: bool) -> frozenset[str]:
    found: set[str] = set()
    tree = ast.parse(text)
    for node in _at_import(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.add(base)
            found.update(f"{base}.{alias.name}" for alias in node.names)
    return frozenset(found)


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module that run when it is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            continue
        yield child
        yield from _at_import(child)
