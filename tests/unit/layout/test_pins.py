"""What is installed is pinned, and from where it is installed is the machine's business: no registry is named in the tree."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.unit.layout.tree import ROOT, files, pyproject

# Files that say what to install or pull.
INSTALLING = re.compile(
    r"(^|/)(Makefile|Dockerfile[^/]*|docker-compose[^/]*\.ya?ml|pyproject\.toml|[a-z-]*constraints\.txt|requirements[^/]*\.txt"
    r"|setup\.cfg|pip\.conf|sources\.list)$|^\.ci/|^deploy/|^\.github/"
)
URL = re.compile(r"\b(?:https?|git\+\w+|ftp)://(?P<host>[A-Za-z0-9.-]+)")
IMAGE = re.compile(r"^\s*(?:FROM|image:)\s+[\"']?(?P<image>[^\s\"'$]+)", re.MULTILINE)
SETTING = re.compile(
    r"--?(?:extra-)?index-url[ =]|--trusted-host[ =]|--find-links[ =]|(?:^|\s)deb\s+(?:\[[^]]*\]\s*)?\w+:", re.MULTILINE
)
LOCAL = re.compile(r"localhost|127\.0\.0\.1|[a-z]+[0-9]?")


def hosts_named(text: str) -> list[str]:
    """Registry hosts and package sources that ``text`` fixes."""
    found = [m["host"] for m in URL.finditer(text) if not LOCAL.fullmatch(m["host"])]
    for m in IMAGE.finditer(text):
        first, slash, _ = m["image"].partition("/")
        if slash and ("." in first or ":" in first):
            found.append(first)
    return found + [m[0].strip() for m in SETTING.finditer(text)]


def test_no_registry_is_named() -> None:
    wrong = {
        str(path): hosts
        for path in files()
        if INSTALLING.search(path.as_posix()) and (hosts := hosts_named((ROOT / path).read_text(errors="replace")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "text",
    [
        "FROM registry.example.com/python:3.11\n",
        "    image: example.com:5000/stele\n",
        "pip install --index-url https://packages.example.com/simple stele\n",
        "deb http://mirror.example.com/debian bookworm main\n",
    ],
)
def test_a_named_registry_is_seen(text: str) -> None:
    assert hosts_named(text) != []


def test_installing_files_are_found() -> None:
    watched = {path.as_posix() for path in files() if INSTALLING.search(path.as_posix())}
    assert {"Makefile", "Dockerfile", "docker-compose.yml", "constraints.txt", "deploy/zookeeper/Dockerfile"} <= watched


def pins(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    lines = [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", line) for line in lines), "one name==version a line"
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def needed() -> set[str]:
    """The distributions that an installation with every extra brings, found through the metadata of what is installed."""
    project = pyproject()["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    pending = [Requirement(r) for r in [*wanted, *pyproject()["build-system"]["requires"]]]
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        seen.add((name, frozenset(requirement.extras)))
        if name != "stele":  # an extra of this project inside another
            found.add(name)
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for line in requires:
            inner = Requirement(line)
            applies = inner.marker is None or any(
                inner.marker.evaluate({"extra": extra}) for extra in ["", *requirement.extras]
            )
            if applies:
                inner.marker = None
                pending.append(inner)
    return found


def test_constraints_pin_every_dependency() -> None:
    assert sorted(needed() - set(pins())) == []


def test_constraints_hold_nothing_else() -> None:
    assert sorted(set(pins()) - needed()) == []


def test_what_is_installed_is_what_is_pinned() -> None:
    installed = {name: distribution(name).version for name in sorted(needed() - {"setuptools"})}
    assert {name: version for name, version in installed.items() if pins().get(name) != version} == {}
