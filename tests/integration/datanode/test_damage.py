"""Bytes that change on a disk: found by whoever meets them, had again from another replica, named until they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stele.services.batch import BatchRecord, decode, encode
from stele.services.errors import LogDamaged, SteleError
from stele.services.pb import datanode_pb2 as pb
from tests.integration.datanode.cluster import Cluster, Node
from tests.support.eventually import eventually

KIB = 1024
SMALL: dict[str, Any] = {
    "segment_bytes": 64 * KIB,
    "entry_bytes_max": 16 * KIB,
    "scrub_bytes_per_s": 0,
    "snapshot_bytes": 1 << 30,
}
COUNT = 140  # more than a replica keeps of its newest entries in memory: those before message 40 are read from the disk
NO_DAMAGE = ""


def value(number: int) -> bytes:
    return b"<message %06d>" % number


def message(number: int) -> bytes:
    records = [BatchRecord(value(number) + bytes(12 * KIB), timestamp_ms=1)]
    return encode(records, producer_id=7, base_sequence=number)


async def fill(cluster: Cluster, first: int = 0, count: int = COUNT) -> None:
    for number in range(first, first + count):
        [result] = await cluster.appended(1, message(number))
        assert result.base_offset == number
    await cluster.replicated(1, first + count)


def flip(node: Node, number: int) -> None:
    """One byte of message ``number`` changes on the disk of ``node``, whether it runs or not."""
    changed = 0
    for path in (Path(node.config.data_dir) / "groups" / "1").glob("*.seg"):
        at = path.read_bytes().find(value(number))
        if at >= 0:
            with path.open("r+b") as file:
                file.seek(at + 3)
                file.write(b"\xff")
            changed += 1
    assert changed == 1


def is_whole_on_disk(node: Node, count: int = COUNT) -> bool:
    stored = b"".join(p.read_bytes() for p in (Path(node.config.data_dir) / "groups" / "1").glob("*.seg"))
    return all(value(number) in stored for number in range(count))


async def read(node: Node, first: int = 0, count: int = COUNT) -> list[int]:
    """The messages that ``node`` gives, up to the first that it cannot."""
    found: list[int] = []
    while first + len(found) < count:
        answer = await node.fetch(1, first + len(found))
        for stored in answer.batches:
            [record] = decode(stored.batch)
            number = stored.base_offset
            assert record.value.startswith(value(number))
            found.append(number)
    return found[: count - first]


async def status_of(node: Node) -> pb.ReplicaStatus:
    async with asyncio.timeout(10):
        async for status in node.stub.WatchStore(pb.WatchStoreRequest()):
            return next(r for r in status.replicas if r.group == 1)
    raise AssertionError("no report")


async def mended(*nodes: Node, within_s: float = 30.0) -> None:
    async def are_whole() -> bool:
        for node in nodes:
            assert is_whole_on_disk(node), node.name
            status = await status_of(node)
            assert status.problem == NO_DAMAGE, status
            assert status.state in ("leader", "follower")
        return True

    await eventually(are_whole, within_s, every_s=0.1)


async def test_p39_damage_that_a_reader_meets_is_mended_from_a_peer(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await datanodes.create(1)
    await fill(datanodes)
    dn2 = nodes[1]
    flip(dn2, 20)
    assert await read(dn2, 0, 20) == list(range(20))
    with pytest.raises(LogDamaged) as damaged:
        await dn2.fetch(1, 20)
    assert (damaged.value.facts["first"], damaged.value.facts["last"]) == ("20", "20")
    assert await read(dn2, 21) == list(range(21, COUNT)), "what stands behind it is read meanwhile"
    await mended(dn2)
    assert await read(dn2) == list(range(COUNT))
    await fill(datanodes, COUNT, 5)


async def test_p39_damage_that_a_replay_meets_is_mended_and_the_replica_goes_on(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await datanodes.create(1)
    await fill(datanodes)
    for node in nodes:
        await node.stop()
        flip(node, 15)
        await node.start()
        await mended(node)
        await datanodes.replicated(1, COUNT)
    for node in nodes:
        assert await read(node) == list(range(COUNT))


async def test_p39_a_leader_that_cannot_give_a_follower_what_it_needs_gets_it_itself(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await datanodes.create(1)
    await fill(datanodes, 0, 5)
    leader = await datanodes.leader(1)
    lagging = next(node for node in nodes if node is not leader)
    await lagging.stop()
    for number in range(5, COUNT):
        await datanodes.appended(1, message(number))
    flip(await datanodes.leader(1), 20)
    await lagging.start()
    await datanodes.replicated(1, COUNT, within_s=30)
    await mended(*nodes)
    for node in nodes:
        assert await read(node) == list(range(COUNT))


async def test_p39_damage_in_different_places_of_all_replicas_costs_nothing(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await datanodes.create(1)
    await fill(datanodes)
    await asyncio.gather(*(node.stop() for node in nodes))
    for at, node in enumerate(nodes):
        for number in (8 + at, 20 + at, 24 + at):
            flip(node, number)
    await asyncio.gather(*(node.start() for node in nodes))
    await datanodes.leader(1)
    await eventually(lambda: _is_writable(datanodes, COUNT), 30)
    await datanodes.replicated(1, COUNT + 1, within_s=30)
    for node in nodes:
        for number in range(COUNT):  # whoever reads meets what the replay has not met
            try:
                await node.fetch(1, number)
            except LogDamaged:
                continue
    await mended(*nodes)
    for node in nodes:
        assert await read(node) == list(range(COUNT))
        assert not list((Path(node.config.data_dir) / "quarantine").iterdir())


async def _is_writable(cluster: Cluster, number: int) -> bool:
    [result] = await cluster.appended(1, message(number))
    return result.base_offset == number


async def test_p39_what_is_damaged_everywhere_is_named_and_the_rest_is_served(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await datanodes.create(1)
    await fill(datanodes)
    for node in nodes:
        flip(node, 20)

    async def all_say_so() -> bool:
        for node in nodes:
            with pytest.raises(LogDamaged):
                await node.fetch(1, 20)
            assert "no other replica has it" in (await status_of(node)).problem
        return True

    await eventually(all_say_so, 30, every_s=0.2)
    for node in nodes:
        assert await read(node, 0, 20) == list(range(20))
        assert await read(node, 21) == list(range(21, COUNT))
    await fill(datanodes, COUNT, 5)


async def test_p39_a_replica_without_peers_serves_what_can_be_read(datanodes: Cluster) -> None:
    [dn1] = await datanodes.start(1, **SMALL)
    await datanodes.create(1)
    await fill(datanodes)
    flip(dn1, 20)
    with pytest.raises(LogDamaged) as damaged:
        await dn1.fetch(1, 20)
    assert (damaged.value.facts["first"], damaged.value.facts["last"]) == ("20", "20")
    assert await read(dn1, 0, 20) == list(range(20))
    assert await read(dn1, 21) == list(range(21, COUNT))
    await eventually(lambda: _is_named(dn1), 10)
    await fill(datanodes, COUNT, 5)
    assert (Path(dn1.config.data_dir) / "groups" / "1").is_dir()


async def test_p39_a_replica_without_peers_starts_on_damage_and_serves_the_rest(datanodes: Cluster) -> None:
    [dn1] = await datanodes.start(1, **SMALL)
    await datanodes.create(1)
    await fill(datanodes)
    await dn1.stop()
    flip(dn1, 20)
    await dn1.start()
    await eventually(lambda: _is_named(dn1), 10)
    await datanodes.replicated(1, COUNT, within_s=20)
    assert await read(dn1, 0, 20) == list(range(20))
    assert await read(dn1, 21) == list(range(21, COUNT))
    with pytest.raises(LogDamaged):
        await dn1.fetch(1, 20)
    assert not list((Path(dn1.config.data_dir) / "quarantine").iterdir())
    await fill(datanodes, COUNT, 5)


async def _is_named(node: Node) -> bool:
    assert "damaged" in (await status_of(node)).problem
    return True


async def test_two_replicas_damaged_in_what_they_write_to_and_no_leader_wait_and_invent_nothing(
    datanodes: Cluster,
) -> None:
    """Neither may vote, for it may have acknowledged what it lacks now; and the third cannot know that it lacks nothing."""
    nodes = await datanodes.start(3, **SMALL)
    await datanodes.create(1)
    await fill(datanodes)
    whole, *damaged = nodes
    for node in nodes:
        await node.stop()
    for node in damaged:
        flip(node, COUNT - 2)
    for node in nodes:
        await node.start()

    async def recover() -> bool:
        told = [await status_of(node) for node in damaged]
        return all(t.state == "recovering" and "lost entries" in t.problem for t in told)

    await eventually(recover, 20)
    for _ in range(5):  # elections' times
        await asyncio.sleep(2 * whole.config.election_timeout_max_s)
        for node in nodes:
            assert (await status_of(node)).state != "leader"
            with pytest.raises(SteleError) as refused:
                await node.append(1, message(COUNT))
            assert (refused.value.definite, refused.value.retryable) == (True, True)
    for node in damaged:
        assert (await status_of(node)).high_watermark == 0
        [aside] = (Path(node.config.data_dir) / "quarantine").iterdir()
        stored = b"".join(path.read_bytes() for path in aside.glob("*.seg"))
        assert sum(value(number) in stored for number in range(COUNT)) == COUNT - 1, "what is left of it is kept"
    assert is_whole_on_disk(whole)


async def test_p39_the_scrub_finds_what_nobody_reads(datanodes: Cluster) -> None:
    settings = SMALL | {"scrub_bytes_per_s": 4 << 20, "scrub_interval_s": 0.2}
    nodes = await datanodes.start(3, **settings)
    await datanodes.create(1)
    await fill(datanodes)
    flip(nodes[2], 10)
    flip(nodes[0], COUNT - 1)  # in the segment that is written to
    await mended(*nodes)
    assert all(node.runtime.registry.get_sample_value("stele_scrubbed_bytes_total") > 0 for node in nodes)
    assert nodes[2].runtime.registry.get_sample_value("stele_damage_mended_total") == 1
    await fill(datanodes, COUNT, 5)
    await mended(*nodes)


async def test_p39_a_damaged_snapshot_that_nobody_needs_is_set_aside(datanodes: Cluster) -> None:
    settings = SMALL | {"snapshot_bytes": 128 * KIB, "scrub_bytes_per_s": 16 << 20, "scrub_interval_s": 0.2}
    [dn1] = await datanodes.start(1, **settings)
    await datanodes.create(1)
    await fill(datanodes)
    folder = Path(dn1.config.data_dir) / "groups" / "1"
    await eventually(lambda: sorted(folder.glob("*.snap")))
    path = sorted(folder.glob("*.snap"))[-1]
    with path.open("r+b") as file:
        file.seek(-2, 2)
        file.write(b"\xa5\xa5")
    await eventually(lambda: path.with_name(path.name + ".damaged").exists(), 30)
    assert (await status_of(dn1)).problem == NO_DAMAGE
    await dn1.stop()
    await dn1.start()
    await datanodes.replicated(1, COUNT)
    assert await read(dn1) == list(range(COUNT))
