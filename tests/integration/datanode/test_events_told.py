"""Why replicas lead, as their stores tell it."""

from __future__ import annotations

from stele.services.pb import datanode_pb2 as pb
from tests.integration.datanode.cluster import Cluster, Node
from tests.integration.datanode.test_watch_store import next_of, stream_of
from tests.support.eventually import eventually
from tests.unit.datanode.entries import make_batch


async def told(node: Node, *kinds: str) -> list[pb.StoreEvent]:
    return [e for e in (await next_of(stream_of(node))).events if e.kind in kinds]


async def test_a_transfer_is_told_with_its_cause_by_both_and_what_is_written_first(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    former = await datanodes.leader(1)
    [first] = await told(former, "partition_leader_elected")
    assert first.cause in ("first", "timeout")
    assert [(e.cause, e.caused_by) for e in await told(former, "partition_written")] == [
        ("new_leader", first.id),
        ("new_owner", ""),
    ]
    successor = next(n for n in nodes if n is not former)
    order = former.order(pb.TransferLeadershipRequest, 1, successor=successor.store_id, cause="operator")
    await former.call("TransferLeadership", order)
    await eventually(lambda: successor.store.registry.get(1).is_leader)
    await datanodes.appended(1, make_batch(producer_id=2))
    await datanodes.appended(1, make_batch(producer_id=3), epoch=4)
    [handed] = await told(former, "leadership_handed_over")
    [elected] = await told(successor, "partition_leader_elected")
    assert (handed.cause, handed.facts["successor_store_id"]) == ("operator", str(successor.store_id))
    assert (elected.cause, elected.caused_by) == ("transfer", handed.id)
    written = await told(successor, "partition_written")
    assert [(e.cause, e.caused_by, e.facts["owner_epoch"]) for e in written] == [
        ("new_leader", elected.id, "1"),
        ("new_owner", "", "4"),
    ], "nothing is new about an owner that has written before"


async def test_who_asks_again_is_told_what_came_since(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    first = await next_of(stream_of(node))
    had = pb.WatchStoreRequest(events_of=first.life, events_after=first.events[-1].number)
    await datanodes.create(2, partition=1)
    await datanodes.leader(2)
    again = await next_of(node.stub.WatchStore(had).__aiter__())
    assert {e.group for e in again.events} <= {2}
    other = pb.WatchStoreRequest(events_of="another life", events_after=10**6)
    assert (await next_of(node.stub.WatchStore(other).__aiter__())).events[0].number == 1


async def test_a_leader_that_dies_is_followed_for_what_was_seen_of_it(datanodes: Cluster) -> None:
    nodes = await datanodes.start(3)
    await datanodes.create(1)
    await datanodes.appended(1, make_batch())
    former = await datanodes.leader(1)
    gone = former.store_id
    await former.stop()
    led = await datanodes.leader(1)
    assert led is not former
    events = {e.id: e for n in nodes if n is not former for e in await told(n, "connection_lost", "process_gone")}
    [elected] = await told(led, "partition_leader_elected")
    assert elected.cause == "refused"
    refused = events[elected.caused_by]
    assert (refused.kind, refused.cause, refused.peer_store_id) == ("process_gone", "refused", gone)
    assert events[refused.caused_by].kind == "connection_lost"
    assert events[refused.caused_by].age_ms >= refused.age_ms >= elected.age_ms


async def test_whoever_hears_that_a_replica_leads_has_heard_why(datanodes: Cluster) -> None:
    [node] = await datanodes.start(1)
    stream, heard, led = stream_of(node), set[str](), set[int]()
    await next_of(stream)
    groups = set(range(1, 21))
    for group in groups:
        await datanodes.create(group, partition=group)
    while led != groups:
        status = await next_of(stream)
        heard |= {e.id for e in status.events}
        for replica in status.replicas:
            if replica.state == "leader":
                led.add(replica.group)
                assert f"partition_leader_elected/{replica.group}@{replica.term}" in heard
