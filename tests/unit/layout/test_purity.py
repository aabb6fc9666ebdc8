"""Pure means pure: decisions without clock, socket, task, file, ZooKeeper or randomness of their own; events in, effects out.

A module that says of itself that it is pure is listed here, and what is listed says so.  Purity is transitive: the modules that a pure
one imports, however far away, import nothing but each other and libraries that only compute.  Messages of protobuf are plain values;
a logger is none.  The packages on the way to a module are not looked at: what ``stele/__init__.py`` offers is not what the module needs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.layout.tree import PACKAGES, imports, modules, path_of

PURE = (
    "stele.arguments",
    "stele.batching",
    "stele.causes",
    "stele.broker.cache",
    "stele.broker.cursor_writes",
    "stele.broker.delivery_times",
    "stele.broker.message_times",
    "stele.broker.ownership",
    "stele.broker.pipeline",
    "stele.broker.ranges",
    "stele.broker.subscription",
    "stele.broker.subscription_effects",
    "stele.broker.traffic",
    "stele.datanode.log.start_point",
    "stele.datanode.partition",
    "stele.datanode.retention",
    "stele.delivery_buffer",
    "stele.event_feed",
    "stele.health",
    "stele.lab.checker",
    "stele.nameserver.absence",
    "stele.nameserver.adoption",
    "stele.nameserver.bundle_assignment",
    "stele.nameserver.bundle_balance",
    "stele.nameserver.bundle_loads",
    "stele.nameserver.catalog",
    "stele.nameserver.catalog_change",
    "stele.nameserver.catalog_reader",
    "stele.nameserver.causes",
    "stele.nameserver.effects",
    "stele.nameserver.finalization",
    "stele.nameserver.events",
    "stele.nameserver.ids",
    "stele.nameserver.explanation",
    "stele.nameserver.leader_balance",
    "stele.nameserver.moves",
    "stele.nameserver.operations",
    "stele.nameserver.placement",
    "stele.nameserver.reconcile",
    "stele.nameserver.replica_balance",
    "stele.nameserver.reports",
    "stele.nameserver.resizing",
    "stele.nameserver.stop_safety",
    "stele.nameserver.owner_epochs",
    "stele.nameserver.plan_scope",
    "stele.nameserver.routing",
    "stele.nameserver.strays",
    "stele.nameserver.view",
    "stele.retry",
    "stele.services.backoff",
    "stele.services.batch",
    "stele.services.bundles",
    "stele.services.coordination.copy_check",
    "stele.services.coordination.copy_document",
    "stele.services.coordination.copy_merge",
    "stele.services.coordination.schema",
    "stele.services.errors",
    "stele.services.events",
    "stele.services.high_water",
    "stele.services.intervals",
    "stele.services.raft.build_pace",
    "stele.services.raft.catch_up",
    "stele.services.raft.door",
    "stele.services.raft.liveness",
    "stele.services.raft.membership",
    "stele.services.raft.quorum",
    "stele.services.rarely",
    "stele.services.rng",
    "stele.services.rpc.never_back",
    "stele.services.rpc.resolution",
    "stele.services.topics",
    "stele.services.units",
    "stele.services.wording",
)

# Libraries that compute and do nothing else; of some only a part.
VALUES = {
    "__future__",
    "abc",
    "array",
    "bisect",
    "builtins",
    "collections",
    "contextlib",
    "crc32c",
    "dataclasses",
    "enum",
    "functools",
    "google.protobuf",
    "heapq",
    "itertools",
    "json",
    "math",
    "msgspec",
    "operator",
    "pathlib.PurePath",
    "re",
    "struct",
    "sys.byteorder",
    "types",
    "typing",
}
DOES_IO = {"open", "print", "input", "exec", "eval", "__import__"}
GENERATED = "stele.services.pb."


def claims_purity(path: Path) -> bool:
    return re.search(r"\b[Pp]ure\b", ast.get_docstring(ast.parse(path.read_text())) or "") is not None


def needed(path: Path, module: str) -> set[str]:
    """What a module imports, by the longest name that is a module or a library's part: ``from a import b`` is ``a.b``."""
    found = imports(path, module)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def is_value(name: str) -> bool:
    return any(name == known or name.startswith(f"{known}.") for known in VALUES)


def reach(module: str, path: Path, via: tuple[str, ...] = (), seen: set[str] | None = None) -> Iterator[str]:
    """What is impure in a module or in what it imports, with the way that leads there."""
    seen = set() if seen is None else seen
    if module in seen:
        return
    seen.add(module)
    way = (*via, module)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{' > '.join(way)} awaits in line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in DOES_IO:
            yield f"{' > '.join(way)} calls {node.func.id} in line {node.lineno}"
    for name in sorted(needed(path, module)):
        if name.startswith(GENERATED):
            if "_grpc" in name:
                yield " > ".join((*way, name))
        elif name.startswith("stele."):
            owner = name if path_of(name).is_file() else name.rpartition(".")[0]
            if path_of(owner).is_file():
                yield from reach(owner, path_of(owner), way, seen)
            else:
                yield f"{' > '.join(way)} takes {name} from a package"
        elif not is_value(name):
            yield " > ".join((*way, name))


@pytest.mark.parametrize("core", PURE)
def test_a_pure_module_reaches_nothing_impure(core: str) -> None:
    path = path_of(core)
    assert path.is_file(), f"{core} is gone: take it off the list or give its new name"
    assert list(reach(core, path)) == []


def test_what_says_that_it_is_pure_is_listed_and_what_is_listed_says_so() -> None:
    claiming = {module for package in PACKAGES for module, path in modules(package) if claims_purity(path)}
    assert sorted(claiming ^ set(PURE)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "import random",
        "import structlog",
        "from os import urandom",
        "from pathlib import Path",
        "from stele.services.pb import raft_pb2_grpc",
        "from stele.services.clock import SYSTEM",
        "from stele.services.rpc.channels import Channels",
        "from stele import Client",
        "async def later() -> None: ...",
        "def read(path: str) -> str:\n    return open(path).read()",
    ],
)
def test_what_is_impure_is_seen(line: str, tmp_path: Path) -> None:
    module = tmp_path / "core.py"
    module.write_text(f"from dataclasses import dataclass\n{line}\n")
    assert list(reach("stele.services.core", module)) != []


def test_what_only_computes_is_let_through(tmp_path: Path) -> None:
    module = tmp_path / "core.py"
    module.write_text(
        "import math\nfrom sys import byteorder\nfrom stele.services.batch import BatchHeader\n"
        "from stele.services.pb import raft_pb2 as pb\nfrom stele.services import topics\n"
    )
    assert list(reach("stele.services.core", module)) == []
