"""Subscription cursors of a partition, over the wire and across leaders."""

from __future__ import annotations

from typing import Any

import pytest

from stele.datanode.partition import RANGES_EACH, RANGES_SUM_MAX
from stele.datanode.server import CURSORS_BYTES_MAX
from stele.services.errors import Fenced, InvalidArgument, NotLeader, Overloaded, SubscriptionNotFound
from stele.services.pb import datanode_pb2 as pb
from tests.integration.datanode.cluster import Cluster
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch


def shape(cursor: pb.Cursor) -> tuple[str, int, list[tuple[int, int]], int]:
    return (cursor.subscription, cursor.ack_floor, [(r.first, r.last) for r in cursor.acked], cursor.generation)


def ack(*ranges: tuple[int, int], generation: int = 1, epoch: int = 1, subscription: str = "s") -> pb.AckCursorRequest:
    return pb.AckCursorRequest(
        group=1,
        owner_epoch=epoch,
        subscription=subscription,
        generation=generation,
        ranges=[pb.OffsetRange(first=first, last=last) for first, last in ranges],
    )


async def test_a_cursor_lives_through_a_change_of_leader(datanodes: Cluster) -> None:
    await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch(10))
    leader = await datanodes.leader(1)
    create = pb.CreateCursorRequest(group=1, owner_epoch=1, subscription="s", earliest=True)
    created = await leader.call("CreateCursor", create)
    assert (shape(created.cursor), created.created) == (("s", 0, [], 1), True)
    again = await leader.call("CreateCursor", create)
    assert (shape(again.cursor), again.created) == (("s", 0, [], 1), False)
    answer = await leader.call("AckCursor", ack((0, 2), (5, 6), (8, 8)))
    assert shape(answer.cursor) == ("s", 3, [(5, 6), (8, 8)], 1)
    await leader.stop()

    async def listed() -> Any:
        try:
            return await (await datanodes.leader(1)).call("ListCursors", pb.ListCursorsRequest(group=1))
        except Exception:
            return None

    answer = await eventually(listed)
    assert [shape(c) for c in answer.cursors] == [("s", 3, [(5, 6), (8, 8)], 1)]
    assert (answer.high_watermark, answer.log_start_offset) == (10, 0)


async def test_reset_and_delete(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    for i in range(5):
        await datanodes.appended(1, make_batch(2, timestamp_ms=10_000 * (i + 1)))
    await node.call("CreateCursor", pb.CreateCursorRequest(group=1, owner_epoch=1, subscription="s", latest=True))
    reset = {"group": 1, "owner_epoch": 1, "subscription": "s"}
    for start, floor in (
        ({"offset": 4}, 4),
        ({"offset": 400}, 10),
        ({"earliest": True}, 0),
        ({"latest": True}, 10),
        ({"timestamp_ms": 30_000}, 4),
        ({"timestamp_ms": 90_000}, 10),
    ):
        answer = await node.call("ResetCursor", pb.ResetCursorRequest(**reset, **start))
        assert answer.cursor.ack_floor == floor, start
    late = await node.call("AckCursor", ack((0, 5), generation=1))
    assert shape(late.cursor) == ("s", 10, [], 7)
    delete = pb.DeleteCursorRequest(group=1, owner_epoch=1, subscription="s")
    assert (await node.call("DeleteCursor", delete)).existed
    assert not (await node.call("DeleteCursor", delete)).existed
    with pytest.raises(SubscriptionNotFound):
        await node.call("AckCursor", ack((0, 1)))
    with pytest.raises(SubscriptionNotFound):
        await node.call("ResetCursor", pb.ResetCursorRequest(**reset, earliest=True))


async def test_what_makes_no_sense_is_refused(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch(5), epoch=3)
    create = {"group": 1, "owner_epoch": 3}
    await node.call("CreateCursor", pb.CreateCursorRequest(**create, subscription="s", earliest=True))
    for request, method in (
        (pb.CreateCursorRequest(**create, subscription="t"), "CreateCursor"),
        (pb.CreateCursorRequest(**create, subscription="bad name", earliest=True), "CreateCursor"),
        (pb.CreateCursorRequest(**create, subscription="", earliest=True), "CreateCursor"),
        (ack((0, 5), epoch=3), "AckCursor"),
        (ack((3, 2), epoch=3), "AckCursor"),
        (ack(*[(0, 0)] * 10_001, epoch=3), "AckCursor"),
    ):
        with pytest.raises(InvalidArgument):
            await node.call(method, request)
    with pytest.raises(Fenced):
        await node.call("AckCursor", ack((0, 0), epoch=2))


async def test_cursors_are_the_leaders(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    leader = await datanodes.leader(1)
    follower = next(n for n in nodes if n is not leader)
    with pytest.raises(NotLeader) as refused:
        await follower.call("ListCursors", pb.ListCursorsRequest(group=1))
    assert refused.value.facts["leader"] == str(leader.store_id)
    with pytest.raises(NotLeader):
        await follower.call("AckCursor", ack((0, 0)))


async def test_p13_the_leader_is_found_however_full_of_holes_the_cursors_are(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    for _ in range(10):
        await datanodes.appended(1, make_batch(2_001))
    holes = [(o, o) for o in range(1, 20_000, 2)]
    for n in range(80):
        create = pb.CreateCursorRequest(group=1, owner_epoch=1, subscription=f"s{n:02}", earliest=True)
        generation = (await node.call("CreateCursor", create)).cursor.generation
        for wanted in (len(holes), 100):
            request = ack(*holes[:wanted])
            request.subscription, request.generation = f"s{n:02}", generation
            try:
                await node.call("AckCursor", request)
                break
            except Overloaded:
                assert wanted > 100, "its least part is each cursor's"
    probed = await node.call("Probe", pb.ProbeRequest(group=1))
    assert (probed.term > 0, probed.high_watermark) == (True, 20_010)
    names: list[str] = []
    page = pb.ListCursorsResponse(more=True)
    ranges = 0
    while page.more:
        page = await node.call("ListCursors", pb.ListCursorsRequest(group=1, after=names[-1] if names else ""))
        assert page.ByteSize() < 2 * CURSORS_BYTES_MAX
        names += [c.subscription for c in page.cursors]
        ranges += sum(len(c.acked) for c in page.cursors)
    assert names == [f"s{n:02}" for n in range(80)]
    assert ranges <= RANGES_SUM_MAX + 80 * RANGES_EACH
