"""The server that tests and the local cluster run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.local.zookeeper import ZooKeeperServer, four_letters
from stele.services.errors import PortTaken
from tests.support.zookeeper import open_session


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "zk1"
    ZooKeeperServer(tmp_path / "zk1").stop()
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_outlives_its_starter_and_is_found_by_its_directory(directory: Path) -> None:
    starter = "import sys; from pathlib import Path; from stele.local.zookeeper import ZooKeeperServer as Z; Z(Path(sys.argv[1])).start()"
    subprocess.run([sys.executable, "-c", starter, str(directory)], check=True, timeout=60)
    found = ZooKeeperServer(directory)
    assert found.is_running
    assert found.serves()
    assert os.getsid(found.pid) == found.pid  # a session of its own: the terminal's end is not its end
    assert four_letters(found.hosts, "ruok") == "imok"
    pid, port = found.pid, found.port
    assert ZooKeeperServer(directory).start().pid == pid  # started once
    found.stop()
    assert not ZooKeeperServer(directory).is_running
    assert ZooKeeperServer(directory).start().port == port


async def test_keeps_data_and_port_over_a_kill(directory: Path, cluster_name: str) -> None:
    server = await ZooKeeperServer(directory).async_start()
    hosts = server.hosts
    async with open_session(hosts, cluster_name) as session:
        await session.create("stores/1", b"kept")
    server.kill(signal.SIGKILL)
    assert not server.is_running
    await server.async_restart()
    assert server.hosts == hosts
    async with open_session(hosts, cluster_name) as session:
        node = await session.get("stores/1")
    assert node is not None
    assert node.value == b"kept"


def test_never_signals_a_process_that_is_not_its_own(directory: Path) -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        directory.mkdir(parents=True)
        (directory / "zookeeper.json").write_text(f'{{"pid": {bystander.pid}, "port": 1, "container": ""}}')
        server = ZooKeeperServer(directory)
        assert not server.is_running
        server.kill()
        server.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_taken_port_is_one_clear_error(directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortTaken, match="the port is in use"):
            ZooKeeperServer(directory, taken.getsockname()[1]).start(within_s=30)


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
@pytest.mark.parametrize("name", ["with space", "Büro", "a:b", "back\\slash", "x=y#z"])
def test_p37_its_directory_may_have_any_name(
    tmp_path: Path, name: str, locale: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    directory = tmp_path / name / "zk1"
    before = {path.name for path in tmp_path.iterdir()}
    server = ZooKeeperServer(directory)
    try:
        server.start()
        assert ZooKeeperServer(directory).is_running
        assert any(path.is_file() for path in (directory / "data").rglob("*")), "its data lie in it"
        server.restart()
    finally:
        ZooKeeperServer(directory).stop()
    assert {path.name for path in tmp_path.iterdir()} == before | {name}
