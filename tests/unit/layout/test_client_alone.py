"""What somebody gets who installs the client: no server library comes along, nobody's logging is touched, every error has a name."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import stele
import stele.errors
import stele.services.errors
from tests.unit.layout.test_pins import pins
from tests.unit.layout.tree import PACKAGES, imports, modules, pyproject

CLIENT_LIBRARIES = {"crc32c", "google", "grpc", "grpc_status"}  # google: protobuf
COMMAND_LIBRARIES = CLIENT_LIBRARIES | {"rich", "typer"}
NOT_THE_CLIENTS = {
    "aiohttp",
    "filelock",
    "kazoo",
    "prometheus_client",
    "psutil",
    "pydantic",
    "pydantic_settings",
    "pysyncobj",
    "rich",
    "structlog",
    "typer",
    "uvloop",
}
# Of the folder stele, what needs the extra: processes on this machine.
LOCAL = (
    "stele.local.cluster",
    "stele.local.ensemble",
    "stele.local.processes",
    "stele.local.rolling",
    "stele.local.zookeeper",
)
COMMAND = sorted(module for module, _ in modules("stele") if f"{module}.".startswith("stele.cli."))
CLIENT = sorted(
    module
    for module, path in modules("stele")
    if module not in LOCAL and module not in COMMAND and path.name != "__main__.py"
)

# A program that has set up nothing: what the client says on its own must not appear in it.
SILENT = """
import asyncio, logging, sys
before = (logging.root.level, list(logging.root.handlers), logging.lastResort)
import stele
from stele.services.library_log import LibraryLog
LibraryLog("producer").warning("batch_failed", topic="a/b")

async def main():
    try:
        async with stele.connect("127.0.0.1:1", timeout_s=0.3):
            pass
    except stele.Unreachable:
        pass

asyncio.run(main())
assert (logging.root.level, list(logging.root.handlers), logging.lastResort) == before
assert "structlog" not in sys.modules
import structlog
assert not structlog.is_configured()
"""


def closure(start: str) -> dict[str, set[str]]:
    """Every module of the project that importing ``start`` loads, with the names that it imports; what is for type checkers alone or
    inside a function is no part of it."""
    files = {module: path for package in PACKAGES for module, path in modules(package)}
    found: dict[str, set[str]] = {}
    pending = [start]
    while pending:
        module = pending.pop()
        if module in found or module not in files:
            continue
        found[module] = imports(files[module], module, at_import=True)
        parts = module.split(".")
        pending += [name for name in found[module] if name.startswith("stele")]
        pending += [".".join(parts[:length]) for length in range(1, len(parts))]
    return found


def test_the_client_is_found_whole() -> None:
    assert {"stele", "stele.sync", "stele.client", "stele.errors", "stele.local.state"} <= set(CLIENT)
    assert "stele.services.rpc.channels" in closure("stele.client")


@pytest.mark.parametrize("module", CLIENT)
def test_no_part_of_the_client_imports_what_only_a_server_needs(module: str) -> None:
    wrong = {
        name: sorted(found) for name, used in closure(module).items() if (found := libraries(used) - CLIENT_LIBRARIES)
    }
    assert wrong == {}


@pytest.mark.parametrize("module", COMMAND)
def test_the_command_starts_without_the_libraries_of_a_server(module: str) -> None:
    wrong = {
        name: sorted(found) for name, used in closure(module).items() if (found := libraries(used) - COMMAND_LIBRARIES)
    }
    assert wrong == {}


def test_a_server_library_behind_a_server_module_is_seen() -> None:
    assert "kazoo" in {name for used in closure("stele.broker.role").values() for name in libraries(used)}


def libraries(imported: set[str]) -> set[str]:
    """What is neither Python's own nor this project's."""
    return {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"stele"}


def test_importing_it_loads_no_server_library() -> None:
    everything = loaded_by("import stele, stele.sync, stele.errors; [getattr(stele, name) for name in stele.__all__]")
    assert "grpc" in everything
    assert libraries(everything) & NOT_THE_CLIENTS == set()


def test_a_name_loads_what_it_needs() -> None:
    """The container's health check, which an engine starts every few seconds, and every role pass through the package."""
    assert libraries(loaded_by("import stele")) & (CLIENT_LIBRARIES | NOT_THE_CLIENTS) == set()
    assert "grpc" not in loaded_by("import stele; stele.TopicNotFound; stele.errors.ClientClosed")
    assert "stele.client" not in loaded_by("import stele.services.rpc.healthcheck")


def test_a_name_that_is_none_is_refused_as_everywhere() -> None:
    assert not hasattr(stele, "nothing")
    assert set(stele.__all__) <= set(dir(stele))


def loaded_by(code: str) -> set[str]:
    code = (
        f"import json, sys; before = set(sys.modules); {code}; json.dump(sorted(set(sys.modules) - before), sys.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(done.stdout))


def test_it_says_nothing_in_a_program_that_did_not_ask() -> None:
    done = subprocess.run([sys.executable, "-c", SILENT], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_closed_stderr_disturbs_nobody() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, SILENT], check=False, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, b"")


@pytest.mark.parametrize("module", [stele.errors, stele.services.errors], ids=["client", "services"])
def test_every_error_is_a_name_of_the_package(module: ModuleType) -> None:
    errors = {
        name: kind
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, stele.SteleError) and not name.startswith("_")
    }
    assert len(errors) > 3
    assert [name for name, kind in errors.items() if getattr(stele, name, None) is not kind] == []
    assert sorted(set(errors) - set(stele.__all__)) == []


def test_all_names_are_there_and_sorted_out() -> None:
    assert [name for name in stele.__all__ if not hasattr(stele, name)] == []
    assert len(set(stele.__all__)) == len(stele.__all__)
    assert stele.sync.connect.__module__ == "stele.sync"


def test_bounds_are_given_and_what_is_pinned_lies_within() -> None:
    project = pyproject()["project"]
    lines = [
        *project["dependencies"],
        *project["optional-dependencies"]["server"],
        *project["optional-dependencies"]["lab"],
    ]
    requirements = [r for r in map(Requirement, lines) if canonicalize_name(r.name) != "stele"]
    unbounded = [str(r) for r in requirements if not any(s.operator in (">=", "==") for s in r.specifier)]
    assert unbounded == []
    pinned = pins()
    assert [str(r) for r in requirements if pinned[canonicalize_name(r.name)] not in r.specifier] == []
