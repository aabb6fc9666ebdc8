"""Every kind of event that there is comes about in this test, and each has a cause that its kind may have and that operators are told."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from stele.datanode.directory import GroupSpec
from stele.datanode.store_events import StoreEvents
from stele.nameserver.bundle_assignment import BundleCause
from stele.nameserver.catalog import (
    BundleEntry,
    Catalog,
    DrainedBroker,
    Leader,
    Member,
    MemberKind,
    MemberState,
    PartitionEntry,
    Rebalance,
    StoreEntry,
    StoreState,
    TopicEntry,
    TopicState,
)
from stele.nameserver.event_buffer import EventBuffer
from stele.nameserver.events import LeaderEvents, derive
from stele.nameserver.moves import Cause
from stele.nameserver.reports import LeaderReport
from stele.services.events import CAUSES, EventKind
from stele.services.pb import nameserver_pb2
from stele.services.raft.election import ElectionCause, Victory
from stele.services.raft.listener import PeerSign
from tests.unit.layout.tree import ROOT
from tests.unit.nameserver.world import datanode

HOW_TO = ROOT / "docs" / "how-to" / "find-out-why.md"


def lives() -> list[Catalog]:
    """One after the other: all that a cluster's records can go through."""
    broker = Member(MemberKind.BROKERS, "br1", "h:1", joined_zxid=5)
    nameserver = Member(MemberKind.NAMESERVERS, "ns1", "n:1", joined_zxid=6)
    topic = TopicEntry("demo/t", 1, 4, 3, TopicState.READY)
    store = StoreEntry(1, "dn1", StoreState.UP, "u")
    partition = PartitionEntry(7, "demo/t", 0, (1, 2))
    full = Catalog(
        topics={"demo/t": topic},
        partitions={7: partition},
        bundles={"demo/a": BundleEntry("demo/a", "br1", 1, cause="unassigned")},
        stores={1: store},
        nameservers={"ns1": nameserver},
        brokers={"br1": broker},
        datanodes={"dn1": datanode(1, MemberState.LOADING)},
        leader=Leader("ns1", "n:1", 1),
    )
    moving = replace(partition, replicas=(1, 2, 3), target=(1, 3), cause=Cause.OPERATOR, moves_since_ms=9)
    offline = replace(store, state=StoreState.OFFLINE, node_version=1)
    return [
        Catalog(),
        full,
        replace(
            full, datanodes={"dn1": datanode(1, MemberState.READY)}, leader=Leader("ns2", "n:2", 2), nameservers={}
        ),
        replace(full, datanodes={"dn1": datanode(1, MemberState.DRAINING)}),
        replace(full, datanodes={}, brokers={"br1": replace(broker, state=MemberState.DRAINING)}),
        replace(full, brokers={"br1": replace(broker, joined_zxid=8)}, drained={"br1": DrainedBroker("br1", 7)}),
        replace(full, stores={1: offline}, bundles={"demo/a": BundleEntry("demo/a", "br2", 2)}),
        replace(full, stores={1: store}, partitions={7: moving}, rebalance=Rebalance(4)),
        replace(full, stores={1: offline}, topics={"demo/t": replace(topic, replication=2)}),
        replace(full, stores={1: replace(store, state=StoreState.TOMBSTONE)}),
        Catalog(),
    ]


async def everything() -> list[tuple[str, str]]:
    """Kinds with the causes that came with them."""
    catalogs = lives()
    events = [(e.kind, e.cause) for a, b in itertools.pairwise(catalogs) for e in derive(a, b)]
    elected = LeaderEvents(()).derive(catalogs[1], {7: LeaderReport(1, 2, True)})
    events += [(e.kind, e.cause) for e in elected]
    store, spec = StoreEvents(2, lambda: 0.0, lambda: None), GroupSpec(7, "demo/t", 0, (1, 2))
    for sign in PeerSign:
        store.on_peer(sign, 1)
    store.on_peer(PeerSign.DISCONNECTED, 1)
    store.on_peer(PeerSign.GONE, 1)
    for term, cause in enumerate(ElectionCause, 1):
        store.elected(spec, Victory(term, cause, 1, term - 1))
    store.handed_over(spec, 1, 1, "operator")
    store.handed_over(spec, 2, 1, "")
    store.written(spec, 1, 1, True, True)
    events += [(e.kind, e.cause) for e in store.messages(0)]
    buffer = EventBuffer(events_max=1)
    follower = buffer.read(nameserver_pb2.EventsRequest(teller=buffer.teller, after_number=1))
    for _ in range(4):
        buffer.saw("process_gone", "br1", "refused", "", {}, 0.0)
    events += [(e.kind, e.cause) async for e in follower]
    return events


async def test_every_kind_of_event_has_a_cause() -> None:
    events = await everything()
    assert {kind for kind, _ in events} == set(EventKind), "one that is missing here is tested nowhere"
    assert [(kind, cause) for kind, cause in events if cause not in CAUSES[EventKind(kind)]] == []


def test_the_causes_that_are_recorded_are_among_those_that_are_told() -> None:
    assert set(CAUSES) == set(EventKind)
    assert all(CAUSES.values())
    assert set(BundleCause) | {"unrecorded"} == CAUSES[EventKind.BUNDLE_MOVED]
    assert set(Cause) == CAUSES[EventKind.MOVE_BEGAN] == CAUSES[EventKind.REPLICA_MOVED]
    assert set(ElectionCause) | {"reported"} == CAUSES[EventKind.LEADER_ELECTED]


@pytest.mark.parametrize("kind", EventKind)
def test_operators_are_told_what_each_cause_means(kind: EventKind) -> None:
    rows = [line for line in HOW_TO.read_text().splitlines() if re.match(rf"\| .*`{kind}`", line)]
    told = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert CAUSES[kind] <= told, f"the table of causes lacks {CAUSES[kind] - told}"
