"""What a store saw before its replica led, and which write came first."""

from __future__ import annotations

from stele.datanode.directory import GroupSpec
from stele.datanode.store_events import StoreEvents
from stele.services.pb import datanode_pb2 as pb
from stele.services.raft.election import ElectionCause, Victory
from stele.services.raft.listener import PeerSign

SPEC = GroupSpec(7, "demo/t", 3, (1, 2, 3))


class Told:
    """A store's events under a clock that the test sets."""

    def __init__(self) -> None:
        self.now, self.changes = 100.0, 0
        self.events = StoreEvents(2, lambda: self.now, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def all(self) -> list[pb.StoreEvent]:
        return self.events.messages(0)


def victory(cause: ElectionCause, term: int = 5) -> Victory:
    return Victory(term, cause, 1, term - 1)


def test_an_election_after_a_refused_connection_names_it_and_that_names_what_was_lost() -> None:
    told = Told()
    told.events.on_peer(PeerSign.DISCONNECTED, 1)
    assert not told.all(), "links come and go"
    told.now += 0.02
    told.events.on_peer(PeerSign.GONE, 1)
    told.now += 0.1
    told.events.elected(SPEC, victory(ElectionCause.REFUSED))
    lost, gone, elected = told.all()
    assert [(e.kind, e.cause, e.age_ms) for e in (lost, gone, elected)] == [
        ("connection_lost", "closed", 120),
        ("process_gone", "refused", 100),
        ("partition_leader_elected", "refused", 0),
    ]
    assert (gone.caused_by, elected.caused_by) == (lost.id, gone.id)
    assert (elected.id, elected.topic, elected.partition) == ("partition_leader_elected/7@5", "demo/t", 3)
    assert dict(elected.facts) == {"term": "5", "former_store_id": "1"}
    assert told.changes == 3


def test_an_election_by_timeout_names_a_sign_only_while_it_lasts() -> None:
    told = Told()
    told.events.on_peer(PeerSign.SILENT, 1)
    told.events.elected(SPEC, victory(ElectionCause.TIMEOUT, 5))
    told.events.on_peer(PeerSign.ACTIVE, 1)
    told.events.elected(SPEC, victory(ElectionCause.TIMEOUT, 7))
    told.events.on_peer(PeerSign.DISCONNECTED, 1)
    told.events.elected(SPEC, victory(ElectionCause.TIMEOUT, 9))
    told.events.elected(GroupSpec(8, "demo/t", 4, ()), victory(ElectionCause.TIMEOUT, 9))
    silent, first, second, lost, third, fourth = told.all()
    assert (silent.kind, silent.cause, lost.kind) == ("process_silent", "silent", "connection_lost")
    assert [e.caused_by for e in (first, second, third, fourth)] == [silent.id, "", lost.id, lost.id]


def test_an_election_by_transfer_names_what_the_former_leader_did() -> None:
    told = Told()
    told.events.handed_over(SPEC, 4, 2, "operator")
    told.events.elected(SPEC, victory(ElectionCause.TRANSFER, 5))
    handed, elected = told.all()
    assert (handed.cause, elected.cause, elected.caused_by) == ("operator", "transfer", handed.id)


def test_the_first_write_of_a_term_and_of_an_owner_are_told_apart() -> None:
    told = Told()
    told.events.written(SPEC, 5, 9, True, True)
    told.events.written(SPEC, 5, 10, False, True)
    by_term, by_owner, again = told.all()
    assert (by_term.cause, by_term.caused_by) == ("new_leader", "partition_leader_elected/7@5")
    assert [(e.cause, e.id) for e in (by_owner, again)] == [
        ("new_owner", "partition_written/7@epoch-9"),
        ("new_owner", "partition_written/7@epoch-10"),
    ]
