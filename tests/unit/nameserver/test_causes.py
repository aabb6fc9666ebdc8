"""An event names the one that it follows from, or none."""

from __future__ import annotations

import pytest

from stele.nameserver.bundle_assignment import Assign, BundleCause
from stele.nameserver.catalog import Catalog, DrainedBroker, Member, MemberKind, NamespaceEntry, StoreEntry
from stele.nameserver.causes import behind_assignment, told_by
from stele.nameserver.event_buffer import EventBuffer
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
