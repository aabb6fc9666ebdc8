"""An event names the one that it follows from, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stele.nameserver.bundle_assignment import Assign, BundleCause
from stele.nameserver.catalog import (
    Catalog,
    DrainedBroker,
    Member,
    MemberKind,
    MemberState,
    NamespaceEntry,
    PartitionEntry,
    Rebalance,
    StoreEntry,
)
from stele.nameserver.causes import behind_assignment, behind_move, told_by, with_signs
from stele.nameserver.event_buffer import EventBuffer
from stele.nameserver.events import ClusterEvent, derive
from stele.nameserver.moves import BeginMove, Cause
from stele.services.bundles import bundle_of
from stele.services.pb import datanode_pb2
from tests.unit.nameserver.world import datanode


def broker(joined_zxid: int) -> Member:
    return Member(MemberKind.BROKERS, "br1", "h:1", joined_zxid=joined_zxid)


HERE = Catalog(brokers={"br1": broker(5)}, drained={"br1": DrainedBroker("br1", 8)})
AWAY = Catalog()


@pytest.mark.parametrize(
    ("cause", "catalog", "expected"),
    [
        (BundleCause.DRAINED, HERE, "broker_drained/br1@8"),
        (BundleCause.DRAINING, HERE, "member_draining/br1@5"),
        (BundleCause.REREGISTERED, HERE, "member_joined/br1@5"),
        (BundleCause.EVEN, HERE, ""),
        (BundleCause.OPERATOR, HERE, ""),
        (BundleCause.GONE, AWAY, ""),
    ],
)
def test_a_bundle_moves_for_what_is_recorded(cause: BundleCause, catalog: Catalog, expected: str) -> None:
    change = Assign("demo/a", "br2", 3, "br1", cause)
    assert behind_assignment(change, catalog, EventBuffer().newest) == expected


def test_a_bundle_moves_for_how_its_owner_was_seen_to_be_gone() -> None:
    buffer, change = EventBuffer(name="ns1"), Assign("demo/a", "br2", 3, "br1", BundleCause.GONE)
    lost = buffer.saw("connection_lost", "br1", "", "", {"incarnation": "4"}, 0.1)
    refused = buffer.saw("process_gone", "br1", "refused", lost, {"incarnation": "4"}, 0.0)
    assert refused == f"process_gone/br1@ns1.{buffer.teller[:8]}.2"
    assert behind_assignment(change, Catalog(brokers={"br1": broker(4)}), buffer.newest) == refused
    assert behind_assignment(change, HERE, buffer.newest) == "", "that was another process of the name"


def test_what_a_store_tells_is_in_the_names_of_the_records() -> None:
    catalog = Catalog(
        namespaces={"demo": NamespaceEntry("demo", 4, 3)},
        stores={1: StoreEntry(1, "dn1", "up", "u")},
    )
    told = datanode_pb2.StoreEvent(id="i", kind="process_gone", cause="refused", caused_by="c", peer_store_id=1)
    event = told_by(datanode(2), told, catalog, 7.0)
    assert (event.subject, event.id, event.cause, event.caused_by, event.recorded_s) == (
        "dn1",
        "i",
        "refused",
        "c",
        7.0,
    )
    assert event.facts == {"kind": "datanode", "store_id": "1", "seen_by": "dn2"}
    told = datanode_pb2.StoreEvent(kind="partition_leader_elected", topic="demo/t", partition=3, group=9)
    told.facts.update({"term": "4", "former_store_id": "1"})
    event = told_by(datanode(2), told, catalog, 7.0)
    assert event.subject == "demo/t-3"
    assert event.facts == {
        "group": "9",
        "leader": "dn2",
        "store_id": "2",
        "term": "4",
        "former_store_id": "1",
        "former": "dn1",
    }


def test_the_first_write_under_an_owner_follows_from_the_record_that_made_it_one() -> None:
    catalog = Catalog(namespaces={"demo": NamespaceEntry("demo", 4, 3)})
    told = datanode_pb2.StoreEvent(kind="partition_written", cause="new_owner", topic="demo/t", partition=3, group=9)
    told.facts["owner_epoch"] = "12"
    assert told_by(datanode(2), told, catalog, 0).caused_by == f"bundle_moved/{bundle_of('demo/t', 3, 4, ())}@12"
    assert told_by(datanode(2), told, Catalog(), 0).caused_by == "", "it is not known which bundle that is"


class Remembered:
    """What a nameserver remembers, by the time at which each was recorded."""

    def __init__(self) -> None:
        self.buffer = EventBuffer(name="ns1")

    def add(self, kind: str, id: str, at_s: float, cause: str = "", subject: str = "dn1", **facts: str) -> str:
        self.buffer.record([ClusterEvent(kind, subject, facts, 1, id, cause, recorded_s=at_s)])
        return id

    def gone(self, zxid: int, now_s: float = 101.0, state: str = MemberState.READY) -> ClusterEvent:
        """The member's, as it is told with what is remembered."""
        before = Catalog(datanodes={"dn1": datanode(1, state, zxid)})
        (event,) = with_signs(derive(before, Catalog()), self.buffer.newest, now_s)
        return event


def test_a_member_is_gone_as_its_process_was_seen_to_be() -> None:
    known = Remembered()
    known.add("member_joined", "j", 10.0, incarnation="4")
    assert (known.gone(4).cause, known.gone(4).caused_by) == ("session_ended", "")
    refused = known.add("process_gone", "g", 100.0, "refused")
    assert (known.gone(4).cause, known.gone(4).caused_by) == ("refused", refused)
    silent = known.add("process_silent", "s", 100.5, "silent")
    assert (known.gone(4).cause, known.gone(4).caused_by) == ("silent", silent)
    assert known.gone(4, now_s=200.0).cause == "session_ended", "it was heard again since, as far as anybody knows"


def test_a_sign_of_its_former_life_says_nothing_of_this_one() -> None:
    known = Remembered()
    known.add("process_gone", "g", 100.0, "refused")
    known.add("member_joined", "j", 100.5, incarnation="9")
    assert (known.gone(9).cause, known.gone(9).caused_by) == ("session_ended", "")
    assert known.gone(4).cause == "session_ended", "of a life that is not remembered nothing is said"
    known.add("process_gone", "h", 100.8, "refused", incarnation="4")
    assert known.gone(9).cause == "session_ended", "it says of which life it is"


def test_who_was_told_to_end_is_gone_for_that() -> None:
    known = Remembered()
    known.add("member_joined", "j", 10.0, incarnation="4")
    known.add("process_gone", "g", 100.0, "refused")
    gone = known.gone(4, state=MemberState.DRAINING)
    assert (gone.cause, gone.caused_by) == ("stopping", "store_draining/dn1@4")


def test_replicas_move_for_the_event_that_their_operation_began_with() -> None:
    known = Remembered()
    catalog = Catalog(
        stores={1: StoreEntry(1, "dn1", "up", "u")},
        partitions={7: PartitionEntry(7, "demo/t", 0, (1, 2, 3))},
        rebalance=Rebalance(4),
    )

    def behind(cause: Cause, catalog: Catalog = catalog) -> str:
        return behind_move(BeginMove(7, (1, 2, 3), (4, 2, 3), cause, 1, 4), catalog, known.buffer.newest)

    assert {behind(cause) for cause in Cause} == {""}, "what nobody remembers is not guessed"
    known.add("member_gone", "other", 1.0, store_id="9")
    gone = known.add("member_gone", "gone", 1.0, store_id="1")
    known.add("member_gone", "later", 1.0, store_id="9")
    began = known.add("decommission_began", "began", 1.0)
    evened = known.add("rebalance_began", "evened", 1.0, subject="replicas")
    altered = known.add("topic_altered", "altered", 1.0, subject="demo/t", changed="partitions,replication")
    known.add("topic_altered", "kept", 1.0, subject="demo/t", changed="retention")
    assert [behind(c) for c in Cause] == ["", began, gone, evened, altered]
    back = replace(catalog, datanodes={"dn1": datanode(1)}, rebalance=None)
    assert [behind(c, back) for c in (Cause.REPAIR, Cause.BALANCE)] == ["", ""], "it is here; nobody asked"
