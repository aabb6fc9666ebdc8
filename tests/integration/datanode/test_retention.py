"""Retention, snapshots and their transfer on real datanodes: what is kept is served, what is not is gone everywhere."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from stele.datanode.directory import DataDirectory
from stele.datanode.replica import Replica
from stele.datanode.retention import trim_due
from stele.datanode.role import Parts
from stele.services.batch import decode
from stele.services.errors import LogDamaged, OffsetOutOfRange, SteleError
from stele.services.pb import datanode_pb2 as pb
from stele.services.pb.common_pb2 import Retention
from tests.integration.datanode.cluster import Cluster, Node
from tests.integration.datanode.test_disk import MIB, Meter
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch

KIB = 1024
SMALL = {
    "segment_bytes": 64 * KIB,
    "entry_bytes_max": 32 * KIB,
    "snapshot_bytes": 64 * KIB,
    "retention_check_s": 0.1,
}
RETENTION_BYTES = 256 * KIB
LOG_BYTES_MAX = 4 * RETENTION_BYTES  # whose steps are snapshots, which on a loaded machine stand far apart
BATCH_BYTES = 8 * KIB


async def create(cluster: Cluster, group: int = 1, **retention: int) -> None:
    nodes = list(cluster.nodes.values())
    for node in nodes:
        request = cluster.create_request(group, nodes, node.store_id)
        for name, value in retention.items():
            setattr(request.retention, name, value)
        await node.call("CreateReplica", request)


async def fill(cluster: Cluster, first: int, count: int, group: int = 1) -> None:
    """Messages ``first`` … as batches of one, each with its own sequence: a retry is recognised."""
    for sequence in range(first, first + count):
        batch = make_batch(1, producer_id=7, sequence=sequence, size=BATCH_BYTES)
        [result] = await cluster.appended(group, batch)
        assert result.base_offset == sequence, result


def group_of(node: Node, group: int = 1):
    found = node.store.registry.get(group)
    assert found is not None
    return found


def partition_of(node: Node, group: int = 1):
    return node.store.replicas[group].partition


def segments(node: Node, group: int = 1) -> list[Path]:
    return sorted((Path(node.config.data_dir) / "groups" / str(group)).rglob("*.seg"))


async def read_all(node: Node, start: int, end: int, group: int = 1) -> None:
    """Every offset from ``start`` to ``end`` is there, in its place."""
    at = start
    while at < end:
        answer = await node.fetch(group, at)
        assert answer.batches, f"{node.name} has nothing at {at} of {end}"
        for stored in answer.batches:
            assert stored.base_offset == at
            at += len(decode(stored.batch))


async def read_kept(node: Node, end: int) -> int:
    """Everything from where the log starts to ``end``; once more if retention moved the start meanwhile.  Returns the start."""
    while True:
        start = partition_of(node).log_start
        try:
            await read_all(node, start, end)
            return start
        except OffsetOutOfRange:
            assert partition_of(node).log_start > start, (
                f"{node.name} keeps offsets from {start} on and does not give them"
            )


def is_short(cluster: Cluster) -> bool:
    running = [n for n in cluster.nodes.values() if n.role is not None]
    starts = {partition_of(n).log_start for n in running}
    return (
        len(starts) == 1
        and starts.pop() > 0
        and all(group_of(n).log_bytes < LOG_BYTES_MAX and group_of(n).journal.first_index > 1 for n in running)
        and not any(more_is_due(n) for n in running)
    )


def more_is_due(node: Node) -> bool:
    """The leader's snapshots alone decide."""
    group, replica = group_of(node), node.store.replicas[1]
    if not group.is_leader:
        return False
    start = replica.partition.log_start
    return trim_due(group.snapshots, group.journal.bytes_after, replica.spec.retention, start, 0) is not None


async def test_retention_by_bytes_frees_every_replica_and_keeps_what_it_should(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await create(datanodes, size_bytes=RETENTION_BYTES)
    count = 0
    for _ in range(3):
        await fill(datanodes, count, 100)
        count += 100
        await datanodes.replicated(1, count)
        await eventually(lambda: is_short(datanodes), describe=lambda: state_of(datanodes))
    for node in nodes:
        start = await read_kept(node, count)
        assert count - start >= RETENTION_BYTES / (BATCH_BYTES + 200), "more was removed than the retention allows"
        assert len(segments(node)) * SMALL["segment_bytes"] < 2 * LOG_BYTES_MAX
        with pytest.raises(OffsetOutOfRange) as refused:
            await node.fetch(1, start - 1)
        assert refused.value.facts == {"offset": str(start - 1), "earliest": str(start), "latest": str(count)}
        partition_of(node).validate()


async def test_retention_by_age_removes_everything_once_it_is_old(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await create(datanodes, age_ms=1_500)
    await fill(datanodes, 0, 60)
    await datanodes.replicated(1, 60)
    assert partition_of(nodes[0]).log_start < 60
    await eventually(
        lambda: {partition_of(n).log_start for n in nodes} == {60}, 20, describe=lambda: state_of(datanodes)
    )
    await eventually(lambda: all(len(segments(n)) <= 2 for n in nodes), 20, describe=lambda: state_of(datanodes))
    await fill(datanodes, 60, 1)  # the log goes on, and producers are remembered
    await datanodes.replicated(1, 61)
    await read_kept(nodes[1], 61)


async def test_without_retention_nothing_goes_and_snapshots_stay_few(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await create(datanodes)
    await fill(datanodes, 0, 100)
    await datanodes.replicated(1, 100)
    await eventually(
        lambda: all(1 < len(group_of(n).snapshots) <= 2 for n in nodes), describe=lambda: state_of(datanodes)
    )
    for node in nodes:
        assert group_of(node).journal.first_index == 1
        await read_all(node, 0, 100)


async def test_what_a_topic_keeps_can_be_changed_while_it_runs(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await create(datanodes)
    await fill(datanodes, 0, 150)
    await datanodes.replicated(1, 150)
    for node in nodes:
        change = node.order(pb.ConfigureReplicaRequest, 1, retention=Retention(size_bytes=RETENTION_BYTES))
        await node.call("ConfigureReplica", change)
    for count in range(
        150, 300, 30
    ):  # a replica whose snapshots stand elsewhere gives up its segments with the next step
        await fill(datanodes, count, 30)
        with suppress(AssertionError):
            await eventually(lambda: is_short(datanodes), 4)
            return
    pytest.fail(f"nothing was given up: {state_of(datanodes)}")


async def test_a_restart_applies_only_what_is_behind_the_newest_snapshot(
    datanodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    [node] = await datanodes.start(1, **SMALL)
    await create(datanodes)
    await fill(datanodes, 0, 100)
    await eventually(lambda: len(group_of(node).snapshots) == 2)
    before = partition_of(node).encode_snapshot()
    behind = group_of(node).applied_index - group_of(node).snapshots[-1].index
    applied: list[int] = []
    whole = Replica.apply

    def counting(self: Replica, index: int, term: int, payload: bytes) -> object:
        applied.append(index)
        return whole(self, index, term, payload)

    monkeypatch.setattr(Replica, "apply", counting)
    await node.stop()
    await node.start()
    await datanodes.replicated(1, 100)
    await eventually(lambda: partition_of(node).encode_snapshot() == before)
    assert len(applied) <= behind < 50
    await read_all(node, 0, 100)


async def test_a_node_that_was_away_while_the_log_moved_on_is_given_the_snapshot_and_leads(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await create(datanodes, size_bytes=RETENTION_BYTES)
    await fill(datanodes, 0, 20)
    await datanodes.replicated(1, 20)
    away = nodes[2]
    last_index = group_of(away).last_index
    await away.stop()
    await fill(datanodes, 20, 180)
    await eventually(
        lambda: is_short(datanodes) and all(group_of(n).journal.first_index > last_index + 1 for n in nodes[:2]),
        20,
        describe=lambda: state_of(datanodes),
    )
    await away.start()
    await datanodes.replicated(1, 200, 20)
    assert group_of(away).journal.first_index > last_index + 1
    await eventually(lambda: partition_of(away).log_start == partition_of(nodes[0]).log_start)
    start = partition_of(away).log_start
    await read_all(away, start, 200)
    await lead(datanodes, away)
    await fill(datanodes, 200, 5)
    await datanodes.replicated(1, 205)
    # The others go: what it holds, it holds alone.
    await asyncio.gather(*(n.stop() for n in nodes[:2]))
    await read_all(away, start, 205)
    with pytest.raises(OffsetOutOfRange):
        await away.fetch(1, start - 1)
    partition_of(away).validate()


async def lead(cluster: Cluster, node: Node) -> None:
    """Leadership is handed to ``node``."""

    async def leads() -> bool:
        leader = await cluster.leader(1)
        if leader is node:
            return True
        group_of(leader).transfer_leadership(node.store.store_id)
        return False

    await eventually(leads, 20, 0.2, describe=lambda: state_of(cluster))


async def test_trims_while_leaders_change_lose_nothing_above_the_start(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await create(datanodes, size_bytes=RETENTION_BYTES)
    count = 0
    for round_ in range(6):
        await fill(datanodes, count, 40)
        count += 40
        victim = await datanodes.leader(1) if round_ % 2 else nodes[round_ // 2]
        await victim.stop()
        await fill(datanodes, count, 20)
        count += 20
        await victim.start()
    await datanodes.replicated(1, count, 20)
    await eventually(lambda: is_short(datanodes), 20, describe=lambda: state_of(datanodes))
    starts = {n.name: partition_of(n).log_start for n in nodes}
    assert len(set(starts.values())) == 1, starts
    for node in nodes:
        await read_all(node, starts[node.name], count)
    states = {partition_of(n).encode_snapshot() for n in nodes}
    assert len(states) == 1, "equal logs, different states"


async def test_a_group_of_which_only_snapshot_and_tail_are_left_comes_back_after_a_restart_of_all(
    datanodes: Cluster,
) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await create(datanodes, size_bytes=RETENTION_BYTES)
    await fill(datanodes, 0, 200)
    await datanodes.replicated(1, 200)
    await eventually(lambda: is_short(datanodes), describe=lambda: state_of(datanodes))
    start = partition_of(nodes[0]).log_start
    await asyncio.gather(*(n.stop() for n in nodes))
    for node in nodes:
        directory = DataDirectory(Path(node.config.data_dir))
        assert directory.read_group(1).retention.size_bytes == RETENTION_BYTES
        directory.close()
    await asyncio.gather(*(n.start() for n in nodes))
    await fill(datanodes, 200, 1)
    await datanodes.replicated(1, 201)
    for node in nodes:
        assert await read_kept(node, 201) >= start


def state_of(cluster: Cluster) -> list[str]:
    lines = cluster.describe(1)
    for node in cluster.nodes.values():
        if node.role is None:
            continue
        try:
            group, partition = group_of(node), partition_of(node)
        except (AssertionError, KeyError, SteleError):
            continue
        lines.append(
            f"{node.name}: offsets {partition.log_start}..{partition.high_watermark}, "
            f"entries {group.journal.first_index}..{group.last_index} of {group.log_bytes} bytes, "
            f"snapshots {[(s.index, s.mark) for s in group.snapshots]}"
        )
    return lines


async def test_a_store_short_of_space_removes_at_once_what_may_go_and_nothing_else(datanodes: Cluster) -> None:
    meter = Meter(100 * MIB)
    node = datanodes.node("dn1", **{**SMALL, "retention_check_s": 86_400.0})
    await node.start(Parts(free_bytes=meter))
    node.store.disk._reserve_bytes = 64 * MIB
    await create(datanodes, group=1, size_bytes=RETENTION_BYTES)
    await create(datanodes, group=2)
    await eventually(lambda: group_of(node).is_leader and group_of(node, 2).is_leader)
    count = 0
    while not (group_of(node).snapshots and could_begin_behind(node, group_of(node).snapshots[0].index)):
        await fill(datanodes, count, 60)
        await fill(datanodes, count, 60, group=2)
        count += 60
    assert partition_of(node).log_start == 0
    meter.free = 10 * MIB
    await eventually(lambda: group_of(node).journal.first_index > 1, describe=lambda: state_of(datanodes))
    start = partition_of(node).log_start
    assert count - start >= RETENTION_BYTES / (BATCH_BYTES + 200)
    await read_all(node, start, count)
    assert (partition_of(node, 2).log_start, group_of(node, 2).journal.first_index) == (0, 1)
    await read_all(node, 0, count, group=2)
    meter.free = 100 * MIB
    await eventually(lambda: not node.store.disk.disk_full)
    await fill(datanodes, count, 1)


def could_begin_behind(node: Node, index: int) -> bool:
    """With segments that go."""
    return bool(group_of(node).journal.bytes_after(index) >= RETENTION_BYTES and len(segments(node)) > 8)


# --- a snapshot without which the log has no beginning ----------------------------------------------------------------


def damage_snapshots(node: Node) -> None:
    paths = sorted((Path(node.config.data_dir) / "groups" / "1").glob("*.snap"))
    assert paths
    for path in paths:
        with path.open("r+b") as file:
            file.seek(-2, 2)
            file.write(b"\xa5\x5a")


async def compacted(cluster: Cluster, *nodes: Node) -> int:
    """Once the log of each begins behind its first entry; how many messages there are."""
    count = 0
    while not all(group_of(node).journal.first_index > 1 for node in nodes):
        assert count < 1000
        await fill(cluster, count, 20)
        count += 20
        await asyncio.sleep(0.1)
    await cluster.replicated(1, count, 20)
    return count


async def status_of(node: Node) -> pb.ReplicaStatus:
    async with asyncio.timeout(10):
        async for status in node.stub.WatchStore(pb.WatchStoreRequest()):
            return next(r for r in status.replicas if r.group == 1)
    raise AssertionError("no report")


async def test_a_replica_whose_needed_snapshot_is_damaged_is_made_whole_by_its_peers(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3, **SMALL)
    await create(datanodes, size_bytes=RETENTION_BYTES)
    count = await compacted(datanodes, *nodes)
    leader = await datanodes.leader(1)
    damaged = next(n for n in nodes if n is not leader)
    await damaged.stop()
    damage_snapshots(damaged)
    await damaged.start()

    async def is_whole() -> bool:
        told = await status_of(damaged)
        return (told.state, told.problem, told.high_watermark) == ("follower", "", count)

    await eventually(is_whole, 30)
    assert [p.suffix for p in (Path(damaged.config.data_dir) / "quarantine").iterdir()] == [".rebuilt"]


async def test_a_lone_replica_whose_needed_snapshot_is_damaged_is_set_aside_and_named(datanodes: Cluster) -> None:
    """What it stood for is nowhere else: nothing is begun without it, and its files stay."""
    [node] = await datanodes.start(1, **SMALL)
    await create(datanodes, size_bytes=RETENTION_BYTES)
    await compacted(datanodes, node)
    await node.stop()
    damage_snapshots(node)
    await node.start()
    told = await status_of(node)
    assert (told.state, told.topic_id > 0) == ("quarantined", True)
    assert ".snap" in told.problem
    with pytest.raises(LogDamaged):
        await node.fetch(1, 0)
    with pytest.raises(LogDamaged):
        await node.append(1, make_batch(1))
    with pytest.raises(LogDamaged):
        await create(datanodes, size_bytes=RETENTION_BYTES)
    [aside] = (Path(node.config.data_dir) / "quarantine").iterdir()
    assert list(aside.glob("*.seg"))
    assert list(aside.glob("*.snap"))
