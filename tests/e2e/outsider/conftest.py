"""One wheel, three environments and one cluster for all of these tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.outsider.installation import Environment, build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of somebody else.  Its packages are named like folders of Stele's, and none of them may be taken for those."""
    place = tmp_path_factory.mktemp("project")
    for name in ("services", "broker", "lab", "datanode", "nameserver"):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text("raise RuntimeError('this is the package of the project')\n")
    return place


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory, project: Path, wheel: Path) -> dict[str, Environment]:
    """The server and the client with the oldest dependencies, the client with those of constraints.txt."""
    wanted = {"server": ("server", True), "oldest": ("", True), "pinned": ("", False)}
    with ThreadPoolExecutor() as pool:
        making = {
            name: pool.submit(Environment.make, tmp_path_factory.mktemp(name), project, wheel, extra, oldest=oldest)
            for name, (extra, oldest) in wanted.items()
        }
        return {name: made.result() for name, made in making.items()}


@pytest.fixture(scope="session")
def oldest_server(environments: dict[str, Environment]) -> Environment:
    return environments["server"]


@pytest.fixture(scope="session", params=["oldest", "pinned"])
def client(request: pytest.FixtureRequest, environments: dict[str, Environment]) -> Environment:
    """The client alone, with the oldest dependencies and with those of constraints.txt."""
    return environments[str(request.param)]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory, oldest_server: Environment) -> Iterator[str]:
    """Nameservers of a running cluster, started and stopped by the command as installed."""
    directory = str(tmp_path_factory.mktemp("cluster") / "c")
    try:
        oldest_server.run(
            *("stele", "cluster", "up", "--dir", directory),
            *("--nameservers", "1", "--datanodes", "3", "--brokers", "1"),
        )
        environment = json.loads(oldest_server.run("stele", "cluster", "env", "-o", "json", "--dir", directory).stdout)
        yield environment["STELE_SERVER"]
    finally:
        oldest_server.run("stele", "cluster", "destroy", "--yes", "--dir", directory)
