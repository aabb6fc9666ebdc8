"""Processes of the local cluster: recognised, signalled, described."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stele.local.cluster import LocalCluster, lock_cluster
from stele.local.errors import ClusterBusy, NoCluster, NoSuchProcess
from stele.local.processes import ProcessIdentity, ProcessState, last_line, launch
from stele.local.rolling import check_ensemble
from stele.local.state import ClusterSpec, ClusterState, ProcessRecord, StateDirectory, role_of
from stele.services.errors import InvalidArgument
from stele.services.json_files import read_json, write_json
from stele.services.ports import free_port


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield child
    child.kill()
    child.wait()


def test_a_process_is_known_by_pid_and_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(sleeper.pid)
    assert identity is not None
    assert identity.state() is ProcessState.RUNNING
    stranger = ProcessIdentity(sleeper.pid, "another time")
    assert stranger.state() is ProcessState.DEAD
    assert not stranger.send(signal.SIGKILL)
    assert stranger.wait_gone(1.0)
    assert identity.state() is ProcessState.RUNNING, "a recycled pid is never hit"


def test_pausing_and_ending(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(sleeper.pid)
    assert identity is not None
    identity.send(signal.SIGSTOP)
    for _ in range(200):
        if identity.state() is ProcessState.PAUSED:
            break
        threading.Event().wait(0.01)
    assert identity.state() is ProcessState.PAUSED
    assert identity.end(signal.SIGTERM, 5.0), "a paused process is woken to be ended"
    assert identity.state() is ProcessState.DEAD
    assert not identity.send(signal.SIGTERM)


def test_a_process_that_ignores_the_kind_way_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    log = tmp_path / "log"
    identity = launch([sys.executable, "-c", code], log, os.environ, tmp_path)
    for _ in range(500):
        if log.read_text() == "deaf\n":
            break
        threading.Event().wait(0.01)
    assert not identity.end(signal.SIGTERM, 0.3)
    assert identity.state() is ProcessState.DEAD


def test_a_started_process_has_a_session_of_its_own_and_appends_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    for word in ("one", "two"):
        identity = launch(
            [sys.executable, "-c", f"import os; print('{word}', os.getsid(0) == os.getpid())"], log, {}, tmp_path
        )
        assert identity.wait_gone(10.0)
    assert log.read_text() == "one True\ntwo True\n"


def test_the_last_line_is_what_the_process_said_of_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        'stele-broker: old\n{"event": "x"}\nstele-broker: 127.0.0.1:1 is in use; choose another\n{"event": "y"}\n'
    )
    assert last_line(log, 0) == "stele-broker: 127.0.0.1:1 is in use; choose another"
    assert last_line(log, len(log.read_bytes())) == ""
    assert last_line(tmp_path / "absent", 0) == ""


def test_free_ports_are_free_and_differ() -> None:
    ports: set[int] = set()
    for _ in range(20):
        ports.add(free_port(ports))
    assert len(ports) == 20
    with socket.socket() as s:
        s.bind(("127.0.0.1", ports.pop()))


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}
    path.write_text("[1")
    assert read_json(path) is None
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_roles_by_name() -> None:
    assert [role_of(n) for n in ("ns1", "dn12", "br99")] == ["nameserver", "datanode", "broker"]
    for bad in ("zk1", "dn0", "dn", "dn100", "x1", "dn1x"):
        with pytest.raises(InvalidArgument):
            role_of(bad)


def test_a_cluster_needs_at_least_one_of_those_that_answer() -> None:
    assert ClusterSpec(1, 0, 1).names() == ["ns1", "br1"]
    for counts in ((0, 1, 1), (1, 1, 0), (1, 100, 1), (1, -1, 1)):
        with pytest.raises(InvalidArgument):
            ClusterSpec(*counts)


def state(directory: Path, **processes: ProcessRecord) -> StateDirectory:
    files = StateDirectory(directory)
    files.path.mkdir(exist_ok=True)
    files.save(ClusterState("c", "", {"broker": {"a": "b"}}, dict(processes)))
    return files


def test_the_state_survives_and_a_foreign_format_is_refused(tmp_path: Path) -> None:
    files = state(tmp_path, ns1=ProcessRecord("ns1", 5000, 0, 5001, 7, "t"))
    loaded = files.load()
    assert loaded == ClusterState("c", "", {"broker": {"a": "b"}}, {"ns1": ProcessRecord("ns1", 5000, 0, 5001, 7, "t")})
    assert loaded.ports() == {5000, 5001}
    assert LocalCluster(tmp_path).bootstrap == "127.0.0.1:5000"
    before = json.loads(files.state_path.read_text())
    del before["zookeepers"]  # of a version that knew but one
    files.state_path.write_text(json.dumps(before | {"format": 2}))
    assert files.load() == loaded
    files.state_path.write_text(json.dumps({"format": 99}))
    with pytest.raises(NoCluster, match="format 99"):
        files.load()


def test_the_zookeepers_of_a_cluster(tmp_path: Path) -> None:
    for bad in (0, 2, 9):
        with pytest.raises(InvalidArgument, match=r"1, 3, 5 or 7 ZooKeepers"):
            ClusterSpec(1, 1, 1, zookeepers=bad)
    files = state(tmp_path, ns1=ProcessRecord("ns1", 5000))
    loaded = files.load()
    assert loaded.names == ["zk1", "ns1"]
    with pytest.raises(InvalidArgument, match="stays 1"):
        LocalCluster(tmp_path, {}).up(ClusterSpec(1, 0, 1, zookeepers=3))
    loaded.zookeepers = 3
    assert loaded.names == ["zk1", "zk2", "zk3", "ns1"]
    files.save(loaded)
    assert files.load() == loaded
    ensemble = LocalCluster(tmp_path).ensemble
    assert [server.directory.name for server in ensemble.servers.values()] == [
        "zookeeper",
        "zookeeper-2",
        "zookeeper-3",
    ]
    with pytest.raises(NoSuchProcess, match="does not run"):
        LocalCluster(tmp_path).kill("zk3")
    loaded.zookeeper = "elsewhere:2181"
    assert loaded.names == ["ns1"]
    with pytest.raises(InvalidArgument, match="STELE_ZOOKEEPER names"):
        LocalCluster(tmp_path / "other", {"STELE_ZOOKEEPER": "elsewhere:2181"}).up(ClusterSpec(1, 0, 1, zookeepers=3))


def test_a_zookeeper_that_is_alone_is_not_restarted_one_by_one(tmp_path: Path) -> None:
    state(tmp_path, ns1=ProcessRecord("ns1", 5000))
    with pytest.raises(InvalidArgument, match="takes an ensemble"):
        check_ensemble(LocalCluster(tmp_path))


def test_two_commands_do_not_change_a_cluster_at_once(tmp_path: Path) -> None:
    with lock_cluster(tmp_path, 1.0), pytest.raises(ClusterBusy, match=str(os.getpid())):
        lock_cluster(tmp_path, 0.1)
    with lock_cluster(tmp_path, 0.1):
        pass


def test_processes_that_the_cluster_does_not_have(tmp_path: Path) -> None:
    state(tmp_path, ns1=ProcessRecord("ns1", 5000))
    cluster = LocalCluster(tmp_path)
    with pytest.raises(NoSuchProcess, match="it has zk1, ns1"):
        cluster.kill("dn7")
    with pytest.raises(NoSuchProcess, match="does not run"):
        cluster.kill("ns1")
    with pytest.raises(NoSuchProcess):
        cluster.log_path("br1")


def test_taking_processes_away_is_refused(tmp_path: Path) -> None:
    state(tmp_path, ns1=ProcessRecord("ns1"), dn1=ProcessRecord("dn1"), br1=ProcessRecord("br1"))
    with pytest.raises(InvalidArgument, match="has dn1 already"):
        LocalCluster(tmp_path).up(ClusterSpec(1, 0, 1))
