"""Appending and fetching on three datanodes."""

from __future__ import annotations

import asyncio

import pytest

from stele.datanode.partition import LEAP_MAX
from stele.services import batch
from stele.services.errors import (
    BatchCorrupt,
    Fenced,
    GroupNotFound,
    InvalidArgument,
    MessageTooLarge,
    NotLeader,
    OutOfOrderSequence,
)
from stele.services.pb import datanode_pb2 as pb
from stele.services.rpc.status import from_pb
from tests.integration.datanode.cluster import Cluster
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch


async def test_an_appended_batch_is_read_from_every_replica(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    first, second = make_batch(3, producer_id=7), make_batch(2, producer_id=7, sequence=3)
    results = await datanodes.appended(1, first, second)
    assert [(r.base_offset, r.duplicate) for r in results] == [(0, False), (3, False)]
    await datanodes.replicated(1, 5)
    for node in nodes:
        answer = await node.fetch(1, 0)
        assert [(b.base_offset, b.batch) for b in answer.batches] == [(0, first), (3, second)]
        assert (answer.log_start_offset, answer.high_watermark) == (0, 5)


async def test_a_retry_is_stored_once_even_at_another_leader(datanodes: Cluster) -> None:
    await datanodes.start(3)
    await datanodes.create(1)
    stored = make_batch(3, producer_id=7)
    await datanodes.appended(1, stored)
    await (await datanodes.leader(1)).stop()
    [again] = await datanodes.appended(1, stored)
    assert (again.base_offset, again.duplicate) == (0, True)
    [after] = await datanodes.appended(1, make_batch(1, producer_id=7, sequence=3))
    assert (after.base_offset, after.duplicate) == (3, False)


async def test_what_was_acknowledged_survives_the_restart_of_all(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    batches = [make_batch(2, producer_id=7, sequence=2 * i) for i in range(20)]
    for b in batches:
        await datanodes.appended(1, b)
    await asyncio.gather(*(node.stop() for node in nodes))
    await asyncio.gather(*(node.start() for node in nodes))
    await datanodes.leader(1)
    await datanodes.replicated(1, 40)
    answer = await nodes[0].fetch(1, 0)
    assert [b.batch for b in answer.batches] == batches
    [again] = await datanodes.appended(1, batches[-1])
    assert (again.base_offset, again.duplicate) == (38, True)


async def test_answers_come_in_the_order_of_the_requests_of_a_group(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.create(2, partition=1)
    await datanodes.leader(1)
    await datanodes.leader(2)
    requests = [
        pb.AppendRequest(request_id=i, group=1 + i % 2, owner_epoch=1, batches=[make_batch()]) for i in range(1, 201)
    ]
    requests.insert(100, pb.AppendRequest(request_id=500, group=1, owner_epoch=1, batches=[b"damaged"]))
    answers = await node.appends(requests)
    for group in (1, 2):
        wanted = [r.request_id for r in requests if r.group == group]
        assert [a.request_id for a in answers if a.request_id in wanted] == wanted
    stored = [a.results[0].base_offset for a in answers if a.request_id % 2 == 0 and a.request_id != 500]
    assert stored == list(range(100))
    [damaged] = [a for a in answers if a.request_id == 500]
    assert isinstance(from_pb(damaged.error), BatchCorrupt)


async def test_a_request_to_an_unknown_group_does_not_hold_the_others(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.leader(1)
    answers = await node.appends(
        [
            pb.AppendRequest(request_id=1, group=9, owner_epoch=1, batches=[make_batch()]),
            pb.AppendRequest(request_id=2, group=1, owner_epoch=1, batches=[make_batch()]),
        ]
    )
    by_id = {a.request_id: a for a in answers}
    assert isinstance(from_pb(by_id[1].error), GroupNotFound)
    assert by_id[2].results[0].base_offset == 0


async def test_what_cannot_be_stored_is_refused_by_type(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1, entry_bytes_max=64 << 10)
    await datanodes.create(1)
    await datanodes.leader(1)
    with pytest.raises(MessageTooLarge) as too_large:
        await node.append(1, make_batch(size=64 << 10))
    assert too_large.value.facts["bytes_max"] == str(64 << 10)
    damaged = bytearray(make_batch(2))
    damaged[-1] ^= 1
    with pytest.raises(BatchCorrupt):
        await node.append(1, bytes(damaged))
    with pytest.raises(InvalidArgument):
        await node.append(1)
    [gap] = await node.append(1, make_batch(1, producer_id=7, sequence=5))
    error = from_pb(gap.error)
    assert isinstance(error, OutOfOrderSequence)
    assert (error.facts["expected"], error.facts["got"]) == ("0", "5")
    assert (await node.fetch(1, 0)).high_watermark == 0


async def test_p27_a_follower_with_a_smaller_limit_stores_what_its_leader_took(datanodes: Cluster) -> None:
    """The limit is asked where an entry is proposed: it may differ, as it does while the nodes get a new one, one after the other."""
    nodes = [
        datanodes.node(f"dn{i}", entry_bytes_max=limit) for i, limit in ((1, 64 << 10), (2, 1 << 20), (3, 1 << 20))
    ]
    for node in nodes:
        await node.start()
    await datanodes.create(1)

    async def a_large_limit_leads() -> bool:
        leader = await datanodes.leader(1)
        if leader is nodes[0]:
            leader.store.registry.get(1).transfer_leadership()
        return leader is not nodes[0]

    await eventually(a_large_limit_leads)
    await datanodes.appended(1, make_batch(size=200 << 10))
    await datanodes.replicated(1, 1)
    assert nodes[0].store.replicas[1].state == "follower"
    await nodes[0].stop()
    await nodes[0].start()
    assert (await nodes[0].fetch(1, 0)).high_watermark == 1


async def test_a_follower_names_the_leader(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    leader = await datanodes.leader(1)
    follower = next(n for n in nodes if n is not leader)
    with pytest.raises(NotLeader) as refused:
        await follower.append(1, make_batch())
    assert refused.value.facts["leader"] == str(leader.store_id)


async def test_p31_an_epoch_that_no_owner_can_have_fences_nobody(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch(), epoch=4)
    for epoch in ((1 << 64) - 1, 4 + LEAP_MAX + 1):
        with pytest.raises(InvalidArgument, match="out of reach"):
            await node.append(1, make_batch(), epoch=epoch)
        with pytest.raises(InvalidArgument, match="out of reach"):
            await node.call("Fence", pb.FenceRequest(group=1, owner_epoch=epoch))
    await datanodes.appended(1, make_batch(), epoch=5)


async def test_r5_10_a_fenced_owner_cannot_write(datanodes: Cluster) -> None:
    await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch(2), epoch=4)
    leader = await datanodes.leader(1)
    answer = await leader.call("Fence", pb.FenceRequest(group=1, owner_epoch=6))
    assert answer.high_watermark == 2
    with pytest.raises(Fenced):
        await leader.append(1, make_batch(), epoch=5)
    with pytest.raises(Fenced):
        await leader.call("Fence", pb.FenceRequest(group=1, owner_epoch=5))
    await leader.stop()
    await datanodes.leader(1)
    with pytest.raises(Fenced):
        await datanodes.appended(1, make_batch(), epoch=5)
    [stored] = await datanodes.appended(1, make_batch(), epoch=6)
    assert stored.base_offset == 2


async def test_a_waiting_fetch_is_answered_by_the_entry_that_comes(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    await datanodes.replicated(1, 1)
    waiting = [asyncio.create_task(n.fetch(1, 1, max_wait_ms=20_000)) for n in nodes for _ in range(3)]
    leader = await datanodes.leader(1)
    await eventually(lambda: all(len(n.store.replicas[1]._waiting) == 3 for n in nodes))
    late = make_batch(2)
    await leader.append(1, late)
    for answer in await asyncio.gather(*waiting):
        assert [(b.base_offset, b.batch) for b in answer.batches] == [(1, late)]


async def test_a_fetch_beyond_the_end_ends_empty_after_its_wait(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    answer = await node.fetch(1, 50, max_wait_ms=50)
    assert (list(answer.batches), answer.high_watermark) == ([], 1)


async def test_a_waiting_fetch_ends_when_its_replica_is_deleted(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.leader(1)
    waiting = asyncio.create_task(node.fetch(1, 0, max_wait_ms=20_000))
    await eventually(lambda: len(node.store.replicas[1]._waiting) == 1)
    await node.call("DeleteReplica", node.order(pb.DeleteReplicaRequest, 1))
    with pytest.raises(GroupNotFound):
        await node.fetch(1, 0)
    with pytest.raises(Exception, match=r"no longer on store|no replica"):
        await waiting


async def test_fetch_keeps_to_its_bytes(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.leader(1)
    stored = [make_batch(size=10_000) for _ in range(30)]
    await asyncio.gather(*(node.append(1, b) for b in stored))
    read: list[bytes] = []
    while len(read) < 30:
        answer = await node.fetch(1, len(read), bytes_max=35_000)
        assert 1 <= len(answer.batches) <= 3
        read += [b.batch for b in answer.batches]
    assert read == stored
    one = await node.fetch(1, 0, bytes_max=1)
    assert len(one.batches) == 1


async def test_a_reader_that_does_not_read_holds_only_itself(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.leader(1)
    for _ in range(4):
        await node.append(1, *[make_batch(size=100_000) for _ in range(8)])

    async def ask() -> None:
        stream = node.stub.Fetch()
        for i in range(200):
            await stream.write(pb.FetchRequest(request_id=i, group=1, offset=0, bytes_max=4 << 20))
        stuck.set()
        await asyncio.Event().wait()

    stuck = asyncio.Event()
    asking = asyncio.create_task(ask())
    await asyncio.wait_for(stuck.wait(), 10)
    [stored] = await node.append(1, make_batch())
    assert stored.base_offset == 32
    assert batch.read_header((await node.fetch(1, 32)).batches[0].batch).record_count == 1
    asking.cancel()


async def test_entries_of_which_only_parts_are_stored_are_bounded(
    datanodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that repeats what is still on its way uses up what the index may remember of it; from then on the log takes only what
    is stored whole, and everything is answered as before."""
    monkeypatch.setattr("stele.datanode.offsets.PARTIAL_BYTES_MAX", 10 * 17)
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    [first] = await datanodes.appended(1, make_batch(2, producer_id=7))
    assert first.base_offset == 0
    retry, gap = make_batch(2, producer_id=7), make_batch(1, producer_id=7, sequence=1000)
    entries = node.store.registry.get(1).last_index
    for _ in range(30):
        results = await node.append(1, retry, gap)
        assert (results[0].base_offset, results[0].duplicate) == (0, True)
        assert results[1].error.reason == "OUT_OF_ORDER_SEQUENCE"
    partition = node.store.replicas[1].partition
    assert node.store.registry.get(1).last_index == entries, "what is known beforehand takes no entry"
    written = 0
    while not partition.offsets.is_crowded:
        assert written < 1_000
        twice = [make_batch(1, producer_id=8, sequence=written + i // 2) for i in range(20)]
        await node.appends(
            [pb.AppendRequest(request_id=i + 1, group=1, owner_epoch=1, batches=[b]) for i, b in enumerate(twice)]
        )
        written += 10
    base = partition.high_watermark
    assert base == 2 + written
    # In one stream, one request after the other: new ones are stored, in order, whatever stands between them.
    sequence, requests = 2, []
    for n in range(20):
        new = [make_batch(1, producer_id=7, sequence=sequence), make_batch(1, producer_id=7, sequence=sequence + 1)]
        requests.append(pb.AppendRequest(request_id=n + 1, group=1, owner_epoch=1, batches=[retry, *new, gap]))
        sequence += 2
    answers = await node.appends(requests)
    assert [a.request_id for a in answers] == list(range(1, 21))
    for n, answer in enumerate(answers):
        assert [r.base_offset for r in answer.results[:3]] == [0, base + 2 * n, base + 1 + 2 * n]
        assert answer.results[3].error.reason == "OUT_OF_ORDER_SEQUENCE"
    assert partition.high_watermark == base + 40
    partition.validate()
    found = await node.fetch(1, 0)
    assert [b.base_offset for b in found.batches] == [0, *range(2, base + 40)]
    await node.call("Fence", pb.FenceRequest(group=1, owner_epoch=5))
    with pytest.raises(Fenced):
        await node.append(1, retry, epoch=1)
    assert len(await node.append(1, retry, gap, epoch=5)) == 2
