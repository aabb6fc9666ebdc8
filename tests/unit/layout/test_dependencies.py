"""The arrows of docs/design.md, section 3: who may import whom, which library has one door."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.layout.tree import PACKAGES, folder_of, imports, modules

MAY_IMPORT = {
    "services": set(),
    "nameserver": {"services"},
    "datanode": {"services"},
    "broker": {"services"},
    "stele": {"services"},
    "lab": {"services", "stele"},
    "console": {"services", "stele"},
    # Mutants subclass the code of the part whose rule they break.
    "lab/mutants": {"services", "stele", "nameserver", "datanode", "broker", "lab"},
}

# A library that has one door: everything else goes through the package named here.
DOORS = {
    "filelock": ("stele.services.directory_lock",),
    "kazoo": ("stele.services.coordination",),
    "pysyncobj": ("stele.services.raft.pysyncobj_adapter",),
    "uvloop": ("stele.services", "stele.local", "stele.cli", "stele.lab"),
}


def refusals(package: str, module: str, imported: set[str]) -> list[str]:
    """The project's packages that ``module`` of ``package`` imports and may not."""
    place = "lab/mutants" if module.startswith("stele.lab.mutants") else package
    allowed = MAY_IMPORT[place] | {package}
    entered = {folder for name in imported if (folder := folder_of(name)) is not None}
    return [f"{module} imports {folder}" for folder in sorted(entered - allowed)]


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_one_way(package: str) -> None:
    wrong = [line for module, path in modules(package) for line in refusals(package, module, imports(path, module))]
    assert wrong == []


def test_a_wrong_arrow_is_seen(tmp_path: Path) -> None:
    module = tmp_path / "produce.py"
    module.write_text("def late():\n    from stele.datanode.log import segment\n")
    assert refusals("broker", "stele.broker.produce", imports(module, "stele.broker.produce")) == [
        "stele.broker.produce imports datanode"
    ]


def test_relative_imports_are_seen(tmp_path: Path) -> None:
    module = tmp_path / "server.py"
    module.write_text("from . import rpc\nfrom ..coordination.session import Session\n")
    found = imports(module, "stele.services.raft.server")
    assert {"stele.services.raft.rpc", "stele.services.coordination.session"} <= found


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_library_has_one_door(library: str) -> None:
    wrong = [
        module
        for package in PACKAGES
        for module, path in modules(package)
        if any(name.split(".")[0] == library for name in imports(path, module))
        and not any(module == door or module.startswith(f"{door}.") for door in DOORS[library])
    ]
    assert wrong == []


def test_nothing_is_unpickled() -> None:
    """Nothing that came over the wire or from disk is unpickled: no module of the product imports a pickler."""
    picklers = {"pickle", "marshal", "shelve", "dill"}
    wrong = [
        module
        for package in PACKAGES
        for module, path in modules(package)
        if {name.split(".")[0] for name in imports(path, module)} & picklers
    ]
    assert wrong == []
