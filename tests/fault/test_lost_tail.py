"""A datanode that comes back without the synced end of one log: it holds up nothing, gets it back, and no message is lost (R4.5)."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest

import stele
from stele.datanode.log.reached import REACHED_NAME, read_reached
from stele.datanode.log.recovery import scan
from stele.datanode.log.segments import HEADER_BYTES, read_header
from stele.services.files import OS_FILES
from tests.support.cluster import ClusterUnderTest, cluster_fixture, is_healthy
from tests.support.eventually import eventually
from tests.support.ledger import Ledger

running_cluster = cluster_fixture(nameservers=1, datanodes=3, brokers=1)

BYTES = 1_000  # of a message
CUT_BYTES = 5_000
EVENTS = ("log_tail_lost", "replica_recovering", "replica_recovered")


class Watched:
    """One partition and who has it."""

    def __init__(self, cluster: ClusterUnderTest, client: stele.Client, topic: str) -> None:
        self.cluster = cluster
        self.client = client
        self.topic = topic

    async def partition(self) -> stele.model.PartitionInfo:
        [found] = await self.client.admin.list_partitions(self.topic)
        return found

    async def states(self) -> dict[str, tuple[str, int]]:
        """Name → state and last index."""
        names = {s.store_id: s.name for s in await self.client.admin.list_stores()}
        return {names[r.store_id]: (r.state, r.last_index) for r in (await self.partition()).replicas}

    async def roles(self) -> tuple[str, str, str]:
        """The leader and the two followers, all three in order and equally far."""
        found: dict[str, tuple[str, int]] = {}

        async def whole() -> bool:
            nonlocal found
            found = await self.states()
            return sorted(state for state, _ in found.values()) == ["follower", "follower", "leader"]

        await eventually(whole, within_s=30, describe=self.cluster.describe)
        [leader] = [name for name, (state, _) in found.items() if state == "leader"]
        first, second = sorted(name for name in found if name != leader)
        return leader, first, second

    async def folder(self, name: str) -> Path:
        return self.cluster.local.directory / "data" / name / "groups" / str((await self.partition()).group)

    async def cut(self, name: str) -> None:
        """The last entries of its log are gone; its process is down."""
        segment = sorted((await self.folder(name)).glob("*.seg"))[-1]
        os.truncate(segment, segment.stat().st_size - CUT_BYTES)

    def told(self, name: str) -> Counter[str]:
        """How often its log says that it found a loss, by itself or by its leader's word, and that it is whole again."""
        log = self.cluster.local.log_path(name).read_text(errors="replace")
        return Counter({event: log.count(f'"{event}"') for event in EVENTS})


def last_entry(folder: Path) -> int:
    """The index of the last entry in a group's folder."""
    path = sorted(folder.glob("*.seg"))[-1]
    file = OS_FILES.open(path)
    try:
        return scan(file, read_header(file.pread(HEADER_BYTES, 0), path), file.size()).last_index
    finally:
        file.close()


async def watched(cluster: ClusterUnderTest, client: stele.Client, name: str) -> Watched:
    topic = f"tail/{name}"
    await client.admin.create_topic(topic, partitions=1, replication=3)
    await client.admin.create_topic(f"{topic}-other", partitions=4, replication=3)
    await eventually(lambda: is_healthy(client), within_s=30, describe=cluster.describe)
    return Watched(cluster, client, topic)


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not noted"])
async def test_p38_on_an_idle_topic(cluster: ClusterUnderTest, noted: bool) -> None:
    async with cluster.connect(timeout_s=30) as client:
        under = await watched(cluster, client, "idle-noted" if noted else "idle")
        ledger = Ledger(client, under.topic)
        for _ in range(30):
            await ledger.must_send(1, BYTES)
        leader, lost, other = await under.roles()

        folder = await under.folder(lost)

        def is_noted() -> bool:
            return read_reached(folder / REACHED_NAME, OS_FILES) == last_entry(folder) > ledger.count

        await eventually(is_noted, within_s=20, describe=cluster.describe)
        told = under.told(lost)
        await cluster.kill(lost)
        await under.cut(lost)
        if not noted:
            (folder / REACHED_NAME).unlink()
        await cluster.start(lost)  # waits until it is ready
        await eventually(lambda: is_healthy(client), within_s=30, describe=cluster.describe)
        told = under.told(lost) - told
        assert told == Counter({"log_tail_lost" if noted else "replica_recovering": 1, "replica_recovered": 1})
        await cluster.kill(other)
        await ledger.must_send(3)  # with two of three, the one that had lost its end among them
        await cluster.start(other)
        await cluster.kill(leader)
        await ledger.check()
        await cluster.start(leader)


async def test_p38_under_steady_writes(cluster: ClusterUnderTest) -> None:
    async with cluster.connect(timeout_s=30) as client:
        under = await watched(cluster, client, "busy")
        ledger = Ledger(client, under.topic)
        going = True

        async def write() -> None:
            while going:
                await ledger.must_send(1, BYTES)
                await asyncio.sleep(0.01)

        async def goes_on(count: int) -> None:
            before = ledger.count
            await eventually(lambda: ledger.count > before + count, within_s=30, describe=cluster.describe)

        writing = asyncio.create_task(write())
        try:
            await goes_on(100)
            leader, lost, other = await under.roles()
            told = under.told(lost)
            await cluster.kill(lost)
            await under.cut(lost)
            await cluster.start(lost)
            await eventually(lambda: is_healthy(client), within_s=30, describe=cluster.describe)
            told = under.told(lost) - told
            assert told["log_tail_lost"] + told["replica_recovering"] == told["replica_recovered"] == 1
            await goes_on(10)
            await cluster.kill(other)
            await goes_on(10)
            await cluster.start(other)
            going = False
            await writing
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        await cluster.kill(leader)
        await ledger.check()
        await cluster.start(leader)
