"""Datanodes as processes: what is wrong at the start ends in one clear line; kill -9 loses nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stele.services.coordination.members import live
from stele.services.coordination.records import BuriedRecord, StoreRecord, ZnodeRecord, encode
from stele.services.pb import datanode_pb2 as pb
from stele.services.pb import datanode_pb2_grpc
from stele.services.rpc.channels import Channels
from tests.integration.datanode.cluster import Cluster, cluster
from tests.support.eventually import eventually
from tests.support.zookeeper import SESSION_TIMEOUT_S, unique_cluster_name
from tests.unit.datanode.entries import make_batch


class Process:
    """``python -m stele.datanode``."""

    def __init__(self, made: Cluster, name: str, data_dir: Path, **settings: object) -> None:
        self.name = name
        self.run_file = data_dir.parent / f"{name}.run"
        flags: dict[str, object] = {
            "name": name,
            "cluster": made.session.cluster,
            "zookeeper": made.session.hosts,
            "session-timeout-s": SESSION_TIMEOUT_S,
            "data-dir": data_dir,
            "election-timeout-min-s": 0.5,
            "election-timeout-max-s": 1.0,
            "disk-reserve-bytes": 0,
            **settings,
        }
        self._arguments = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
        self._process: asyncio.subprocess.Process | None = None

    async def spawn(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stele.datanode",
            *self._arguments,
            env={**os.environ, "STELE_RUN_FILE": str(self.run_file)},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        return self._process

    async def start(self) -> dict[str, Any]:
        """What the run file says once the process is ready."""
        self.run_file.unlink(missing_ok=True)
        await self.spawn()
        return await eventually(lambda: self.run_file.exists() and json.loads(self.run_file.read_text()), within_s=30)

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> tuple[int, str]:
        """Status and what it said on stderr."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        return await self.ended()

    async def ended(self) -> tuple[int, str]:
        assert self._process is not None
        _, said = await asyncio.wait_for(self._process.communicate(), 30)
        status = self._process.returncode
        assert status is not None
        return status, said.decode()

    async def fails(self) -> str:
        """The one line with which it ends."""
        await self.spawn()
        status, said = await self.ended()
        assert status == 1, said
        lines = [line for line in said.splitlines() if not line.startswith("{")]
        assert len(lines) == 1, said
        return lines[0]


@pytest.fixture
async def made(tmp_path: Path, zk_hosts: str) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path, zk_hosts, unique_cluster_name()) as opened:
        yield opened


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[dict[str, Any]]:
    try:
        yield await process.start()
    finally:
        await process.kill()


async def test_two_processes_on_one_directory(made: Cluster, tmp_path: Path) -> None:
    async with running(Process(made, "dn1", tmp_path / "d")) as ready:
        said = await Process(made, "dn2", tmp_path / "d").fails()
        assert str(tmp_path / "d") in said
        assert str(ready["pid"]) in said
        assert "dn2" not in await live(made.session, "datanodes")


async def test_a_directory_of_another_cluster(made: Cluster, tmp_path: Path, zk_hosts: str) -> None:
    first = Process(made, "dn1", tmp_path / "d")
    async with running(first):
        pass
    before = (tmp_path / "d" / "store.json").read_bytes()
    async with cluster(tmp_path / "other", zk_hosts, unique_cluster_name()) as other:
        said = await Process(other, "dn1", tmp_path / "d").fails()
        assert "belongs to cluster" in said
        assert await live(other.session, "datanodes") == {}
    assert (tmp_path / "d" / "store.json").read_bytes() == before


@pytest.mark.parametrize("setting", ["port", "raft-port", "admin-port"])
async def test_a_port_that_is_taken(made: Cluster, tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = await Process(made, "dn1", tmp_path / "d", **{setting: port}).fails()
    assert f"127.0.0.1:{port} is in use" in said


async def test_zookeeper_that_cannot_be_reached(made: Cluster, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        hosts = f"127.0.0.1:{nobody.getsockname()[1]}"
    said = await Process(made, "dn1", tmp_path / "d", zookeeper=hosts).fails()
    assert hosts in said


async def test_a_name_that_is_taken(made: Cluster, tmp_path: Path) -> None:
    async with running(Process(made, "dn1", tmp_path / "a")) as ready:
        said = await Process(made, "dn1", tmp_path / "b").fails()
        assert "dn1" in said
        assert ready["endpoint"] in said


async def test_r5_9_a_killed_node_is_gone_with_its_session(made: Cluster, tmp_path: Path) -> None:
    process = Process(made, "dn1", tmp_path / "d")
    await process.start()
    assert "dn1" in await live(made.session, "datanodes")
    await process.kill()

    async def gone() -> bool:
        return "dn1" not in await live(made.session, "datanodes")

    await eventually(gone, within_s=SESSION_TIMEOUT_S + 5)


async def test_a_fast_restart_takes_its_own_place(made: Cluster, tmp_path: Path) -> None:
    """Inside the old session: the node's own ephemeral record is still there (R1.9, R5.4)."""
    process = Process(made, "dn1", tmp_path / "d")
    first = await process.start()
    await process.kill()
    async with running(process) as second:
        assert second["pid"] != first["pid"]
        record = (await live(made.session, "datanodes"))["dn1"]
        assert (record.endpoint, record.store_id) == (second["endpoint"], 1)


@pytest.mark.parametrize(
    ("path", "record"),
    [
        ("stores/buried", BuriedRecord(intervals=((1, 4),))),
        ("stores/1", StoreRecord(name="dn1", state="tombstone", uuid="", registered_ms=0)),
    ],
    ids=["buried", "tombstone"],
)
async def test_r2_6_a_removed_store_is_refused_also_where_no_nameserver_answers(
    path: str, record: ZnodeRecord, made: Cluster, tmp_path: Path
) -> None:
    process = Process(made, "dn1", tmp_path / "d")
    async with running(process):
        pass
    await made.stores.stop()
    await made.session.create(path, encode(record))
    try:
        assert "store 1 was removed" in await process.fails()
        await made.session.delete(path)
        async with running(process) as ready:
            assert (await live(made.session, "datanodes"))["dn1"].endpoint == ready["endpoint"]
    finally:
        await made.stores.start()  # for its end


async def test_sigterm_drains_and_ends_with_0(made: Cluster, tmp_path: Path) -> None:
    process = Process(made, "dn1", tmp_path / "d")
    await process.start()
    status, _ = await process.kill(signal.SIGTERM)
    assert status == 0
    assert "dn1" not in await live(made.session, "datanodes")


async def test_what_was_acknowledged_survives_kill_9_of_the_leader(made: Cluster, tmp_path: Path) -> None:
    processes = {i: Process(made, f"dn{i}", tmp_path / f"d{i}") for i in (1, 2, 3)}
    channels = Channels()
    endpoints: dict[int, str] = {}

    def stub(store_id: int) -> Any:
        return datanode_pb2_grpc.DatanodeStub(channels.get(endpoints[store_id]))  # type: ignore[no-untyped-call]

    async def append(store_id: int, sequence: int) -> int | None:
        """The offset, or None if that store is not the one to ask, or not now."""
        request = pb.AppendRequest(
            request_id=1, group=1, owner_epoch=1, batches=[make_batch(1, producer_id=9, sequence=sequence)]
        )

        async def requests() -> AsyncIterator[pb.AppendRequest]:
            yield request

        try:
            async with asyncio.timeout(3):
                [answer] = [a async for a in stub(store_id).Append(requests())]
        except Exception:
            return None
        return None if answer.error.reason else int(answer.results[0].base_offset)

    try:
        for store_id, process in processes.items():
            endpoints[store_id] = (await process.start())["endpoint"]
        for store_id in processes:
            await stub(store_id).CreateReplica(
                pb.CreateReplicaRequest(
                    group=1,
                    topic="a/b",
                    store_ids=[1, 2, 3],
                    leader_epoch=1,
                    to_store_id=store_id,
                    topic_id=1,
                    cluster_id=made.session.cluster_id,
                )
            )
        acknowledged: list[int] = []
        leader = 1

        async def send(sequence: int) -> int:
            nonlocal leader
            for candidate in (leader, *(i for i in processes if i != leader)):
                offset = await append(candidate, sequence)
                if offset is not None:
                    leader = candidate
                    return offset + 1
            return 0

        for sequence in range(60):
            if sequence in (20, 40):
                await processes[leader].kill()
                await channels.close(endpoints[leader])
                killed = leader
            acknowledged.append(await eventually(lambda s=sequence: send(s), within_s=20) - 1)
            if sequence in (30, 50):
                endpoints[killed] = (await processes[killed].start())["endpoint"]
        assert acknowledged == list(range(60))

        async def read_all(store_id: int) -> int:
            async def requests() -> AsyncIterator[pb.FetchRequest]:
                yield pb.FetchRequest(request_id=1, group=1, offset=0)

            [answer] = [a async for a in stub(store_id).Fetch(requests())]
            return len(answer.batches)

        for store_id in processes:

            async def has_all(store_id: int = store_id) -> bool:
                return await read_all(store_id) == 60

            await eventually(has_all, within_s=15)
    finally:
        await channels.close()
        for process in processes.values():
            await process.kill()
