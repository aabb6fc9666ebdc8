"""What the wheel brings, and what it brings along."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from tests.e2e.outsider.installation import Environment

pytestmark = pytest.mark.timeout(600)  # the first of them installs everything

SERVER_ONLY = {"aiohttp", "kazoo", "prometheus-client", "psutil", "pysyncobj", "structlog", "uvloop"}


def test_the_wheel_brings_one_package_and_nothing_that_is_wrong_on_purpose(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    packages = {name.partition("/")[0] for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert packages == {"stele"}
    assert {"stele/py.typed", "stele/sync.py", "stele/services/pb/common_pb2.pyi"} <= set(names)
    assert [name for name in names if "mutants" in name or "/tests/" in name] == []
    assert [name for name in names if "__pycache__" in name] == []


def test_the_client_alone_brings_no_server_library_and_no_other_package(client: Environment) -> None:
    installed = client.installed()
    assert SERVER_ONLY & set(installed) == set()
    record = next(client.site_packages.glob("stele-*.dist-info")) / "RECORD"
    tops = {line.partition(",")[0].split("/")[0] for line in record.read_text().splitlines()}
    assert {top for top in tops if not top.endswith(".dist-info") and top != ".."} == {"stele"}
    for name in ("services", "broker", "datanode", "nameserver", "lab"):
        assert not (client.site_packages / name).exists()


def test_the_versions_are_those_that_were_meant(client: Environment, oldest_server: Environment) -> None:
    for environment in (client, oldest_server):
        installed = environment.installed()
        meant = {name: Version(version) for name, version in environment.wanted.items() if name in installed}
        assert {name: Version(installed[name]) for name in meant} == meant
        assert {"grpcio", "protobuf", "typer"} <= set(meant)


def test_it_is_imported_beside_packages_of_the_same_names(client: Environment) -> None:
    code = "import stele, stele.sync, stele.errors; stele.sync.connect, stele.TopicNotFound; print(stele.__file__)"
    assert client.run("python", "-c", code).stdout.startswith(str(client.site_packages))
    code = "import stele; print(stele.sync.connect.__module__, stele.__version__)"
    assert client.run("python", "-c", code).stdout.startswith("stele.sync ")


@pytest.mark.parametrize(
    ("command", "what", "extra"),
    [
        (["stele", "cluster", "up"], "stele cluster", "server"),
        (["stele", "cluster", "status"], "stele cluster", "server"),
        (["python", "-m", "stele.nameserver"], "stele.nameserver", "server"),
        (["python", "-m", "stele.datanode"], "stele.datanode", "server"),
        (["python", "-m", "stele.broker", "--help"], "stele.broker", "server"),
        (["python", "-m", "stele.lab.demo"], "stele.lab.demo", "lab"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_an_extra_says_so_in_one_line(
    client: Environment, command: list[str], what: str, extra: str
) -> None:
    program, *arguments = command
    (line,) = client.run(program, *arguments, status=1).stderr.splitlines()
    assert line.startswith(f"error: {what} needs aiohttp, ")
    assert line.endswith(f"not installed here: pip install 'stele[{extra}]'")
    assert not (client.project / ".stele").exists()


def test_the_command_helps_and_reaches_a_cluster_elsewhere(client: Environment, address: str) -> None:
    assert "Usage: stele" in client.run("stele", "--help").stdout
    assert "Examples:" in client.run("stele", "cluster", "up", "--help").stdout
    topic = f"command/{client.directory.name}"
    client.run("stele", "topic", "create", topic, "--partitions", "2", STELE_SERVER=address)
    client.run("stele", "produce", topic, "--count", "100", STELE_SERVER=address)
    taken = client.run("stele", "consume", topic, "-S", "me", "--timeout", "2", "--server", address).stdout
    assert len(taken.splitlines()) == 100
    client.run("stele", "health", "--server", address)
