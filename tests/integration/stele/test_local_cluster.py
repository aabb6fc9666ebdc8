"""A local cluster: started, found again, broken, stopped."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.local.cluster import LocalCluster
from stele.local.errors import NoCluster, NoSuchProcess, ProcessFailed
from stele.local.processes import ProcessIdentity, ProcessState
from stele.local.state import ClusterSpec
from stele.services.errors import InvalidArgument
from stele.services.json_files import read_json
from tests.support.cluster import ClusterUnderTest, remove_cluster, start_cluster

SMALL = ClusterSpec(1, 1, 1)


@pytest.fixture(scope="module")
def small() -> Iterator[ClusterUnderTest]:
    cluster = start_cluster(1, 1, 1)
    yield cluster
    remove_cluster(cluster)


@pytest.fixture
def local(small: ClusterUnderTest) -> LocalCluster:
    """Another object for the same directory: everything is known from there."""
    small.local.up()
    return LocalCluster(small.local.directory, {})


def pids(cluster: LocalCluster) -> dict[str, int]:
    return {p.name: p.pid for p in cluster.status()}


def wait_until(holds: object, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def is_bound(listening: socket.socket, port: int) -> bool:
    """The system may need a moment to let go of a dead process's port."""
    try:
        listening.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_everything_is_ready_and_up_again_changes_nothing(local: LocalCluster) -> None:
    before = local.status()
    assert [p.name for p in before] == ["zk1", "ns1", "dn1", "br1"]
    assert all(p.healthy for p in before)
    told: list[tuple[str, str]] = []
    local.up(SMALL, lambda name, doing: told.append((name, doing)))
    assert pids(local) == {p.name: p.pid for p in before}
    assert ("ns1", "starting") not in told


def test_a_killed_process_comes_back_to_its_port_and_data(local: LocalCluster) -> None:
    before = {p.name: p for p in local.status()}
    local.kill("dn1")
    status = {p.name: p for p in local.status()}
    assert (status["dn1"].state, status["dn1"].ready, status["dn1"].pid) == ("dead", False, 0)
    with pytest.raises(NoSuchProcess, match="does not run"):
        local.kill("dn1")
    local.start("dn1")
    after = {p.name: p for p in local.status()}
    assert after["dn1"].healthy
    assert after["dn1"].endpoint == before["dn1"].endpoint
    assert after["dn1"].pid != before["dn1"].pid
    assert after["ns1"].pid == before["ns1"].pid


def test_pause_and_resume(local: LocalCluster) -> None:
    for name in ("br1", "zk1"):
        local.pause(name)
        wait_until(lambda n=name: {p.name: p.state for p in local.status()}[n] == "paused")
        local.resume(name)
        wait_until(lambda n=name: {p.name: p.state for p in local.status()}[n] == "running")


def test_a_process_that_got_the_pid_of_a_dead_one_is_left_alone(local: LocalCluster) -> None:
    local.kill("br1")
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        state = local.files.load()
        state.processes["br1"].pid = stranger.pid
        local.files.save(state)
        with pytest.raises(NoSuchProcess):
            local.kill("br1")
        local.start("br1")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
    assert {p.name: p.state for p in local.status()}["br1"] == "running"


def test_a_port_that_was_taken_meanwhile_is_replaced(local: LocalCluster) -> None:
    before = {p.name: p.endpoint for p in local.status()}["br1"]
    local.kill("br1")
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: is_bound(thief, int(before.rpartition(":")[2])))
        thief.listen()
        local.start("br1")
    after = {p.name: p for p in local.status()}["br1"]
    assert after.healthy
    assert after.endpoint != before


def test_a_process_that_cannot_start_says_why_in_one_line(local: LocalCluster) -> None:
    local.kill("br1")
    state = local.files.load()
    state.settings["broker"] = {"log_level": "shouting"}
    local.files.save(state)
    try:
        with pytest.raises(
            ProcessFailed, match=r"br1 ended while starting: stele-broker: .*log_level.*br1\.log"
        ) as failed:
            local.up()
        assert "\n" not in failed.value.message
    finally:
        state = local.files.load()
        state.settings.clear()
        local.files.save(state)


def test_processes_can_be_added(local: LocalCluster) -> None:
    before = pids(local)
    local.up(ClusterSpec(1, 1, 2))
    after = pids(local)
    assert set(after) - set(before) == {"br2"}
    assert {n: after[n] for n in before} == before
    with pytest.raises(InvalidArgument, match="has br2 already"):
        local.up(SMALL)


def test_it_outlives_its_starter(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stele.local.cluster import LocalCluster; "
        "from stele.local.state import ClusterSpec; LocalCluster(Path(sys.argv[1]), {}).up(ClusterSpec(1, 0, 1))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], check=True, timeout=120, start_new_session=True)
    cluster = LocalCluster(tmp_path / "c", {})
    try:
        assert all(p.healthy for p in cluster.status())
        identities = [ProcessIdentity.of(p.pid) for p in cluster.status()]
        cluster.pause("br1")
        told: list[tuple[str, str]] = []
        cluster.down(lambda name, doing: told.append((name, doing)))
        assert [name for name, doing in told if doing == "stopped"] == ["br1", "ns1", "zk1"]
        assert all(i is not None and i.state() is ProcessState.DEAD for i in identities)
        assert [p.state for p in cluster.status()] == ["dead"] * 3
        cluster.down()
        cluster.up()
        assert all(p.healthy for p in cluster.status()), "its data are still there"
    finally:
        cluster.destroy()
    assert not (tmp_path / "c").exists()
    with pytest.raises(NoCluster):
        cluster.destroy()


def test_a_kind_stop_ends_a_process_with_its_run_file(local: LocalCluster) -> None:
    run = local.files.run_path("br1")
    assert read_json(run) is not None
    local.kill("br1", signal.SIGTERM)
    wait_until(lambda: {p.name: p.state for p in local.status()}["br1"] == "dead", within_s=20)
    assert read_json(run) is None
