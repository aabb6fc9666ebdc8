"""Ids name occurrences; a ring keeps the newest."""

from __future__ import annotations

from stele.services.events import EventRing, bundle_moved_id, handed_over_id, leader_elected_id


def test_what_records_tell_apart_has_one_id_wherever_it_is_told() -> None:
    assert bundle_moved_id("demo/0-1", 7) == "bundle_moved/demo/0-1@7"
    assert leader_elected_id(3, 4) != handed_over_id(3, 4)


def test_what_one_process_saw_has_its_life_and_a_number() -> None:
    ring, again = EventRing("store-2", "a1"), EventRing("store-2", "b2")
    ids = [ring.record("process_gone", "store-1", 1.0), ring.record("process_gone", "store-1", 2.0)]
    ids.append(again.record("process_gone", "store-1", 3.0))
    assert ids == [
        "process_gone/store-1@store-2.a1.1",
        "process_gone/store-1@store-2.a1.2",
        "process_gone/store-1@store-2.b2.1",
    ]


def test_the_ring_keeps_the_newest_and_tells_those_after_a_number() -> None:
    ring = EventRing("store-1", "a", events_max=3)
    assert (ring.newest, ring.after(0)) == (0, [])
    for at_s in range(5):
        ring.record("k", "s", float(at_s))
    assert ring.newest == 5
    assert [e.number for e in ring.after(0)] == [3, 4, 5], "what came before is forgotten"
    assert [e.number for e in ring.after(4)] == [5]
    assert ring.after(5) == []
