"""A chain follows what events say they follow from, and says where nobody knows."""

from __future__ import annotations

from stele.causes import KnownEvents, lasted_ms, of_broker, of_partition
from stele.model import CauseChain, Event

BUNDLE = "demo/0-7"
NOW = 1 << 62


def event(id: str, time_ms: int, caused_by: str = "", cause: str = "", subject: str = "", **facts: str) -> Event:
    return Event(id, time_ms, id.partition("/")[0], subject, facts, cause, caused_by)


LOST = event("connection_lost/store-1@store-2.a.1", 1000, subject="dn1", seen_by="dn2")
GONE = event("process_gone/store-1@store-2.a.2", 1020, LOST.id, "refused", "dn1", seen_by="dn2")
ELECTED = event("partition_leader_elected/7@5", 1110, GONE.id, "refused", "demo/t-0", group="7", term="5", leader="dn2")
WRITTEN = event("partition_written/7@term-5", 1150, ELECTED.id, "new_leader", "demo/t-0", group="7")
BROKER_GONE = event("process_gone/br1@ns1.b.9", 2000, "", "refused", "br1", kind="broker")


def moved(bundle: str, epoch: int, time_ms: int, caused_by: str = BROKER_GONE.id, cause: str = "gone") -> Event:
    id = f"bundle_moved/{bundle}@{epoch}"
    return event(id, time_ms, caused_by, cause, bundle, **{"from": "br1", "to": "br2"})


def known(*events: Event) -> KnownEvents:
    all_of_them = KnownEvents()
    for each in events:
        all_of_them.add(each, found=False)
    return all_of_them


def leader_of(*events: Event, at_ms: int = NOW) -> CauseChain:
    chain = of_partition(known(*events), "demo/t", 0, 7, BUNDLE, at_ms)[0]
    assert (chain.subject, chain.about) == ("demo/t-0", "leader")
    return chain


def shown(chain: CauseChain) -> list[tuple[str, int | None, int | None]]:
    return [(s.event.kind if s.event else "?", s.at_ms, s.after_ms) for s in chain.steps]


def test_a_chain_goes_from_the_first_sign_to_the_first_write() -> None:
    chain = leader_of(WRITTEN, ELECTED, LOST, GONE)
    assert shown(chain) == [
        ("connection_lost", 0, None),
        ("process_gone", 20, 20),
        ("partition_leader_elected", 110, 90),
        ("partition_written", 150, 40),
    ]
    assert [s.waited_for for s in chain.steps][1:3] == ["its port to refuse", "a majority's votes"]
    assert chain.write_known
    assert lasted_ms(chain) == 150


def test_what_nobody_remembers_is_said_and_nothing_is_guessed() -> None:
    other = event("process_gone/store-3@store-2.a.3", 1019, "", "refused", "dn3")
    chain = leader_of(WRITTEN, ELECTED, other, LOST)
    assert shown(chain) == [("?", None, None), ("partition_leader_elected", 0, None), ("partition_written", 40, 40)]
    assert chain.steps[0].id == GONE.id, "it is named; another that came at about that time is not taken for it"
    assert chain.steps[1].waited_for == ""
    first = leader_of(WRITTEN, ELECTED, GONE)
    assert [s.id for s in first.steps][:2] == [LOST.id, GONE.id], "what is known of it stays"
    assert leader_of(LOST, GONE, WRITTEN).steps == (), "that it led is not known: a write alone says nothing"


def test_without_a_known_write_the_chain_says_so() -> None:
    chain = leader_of(LOST, GONE, ELECTED, event("partition_written/7@term-4", 1190, "partition_leader_elected/7@4"))
    assert shown(chain)[-1] == ("partition_leader_elected", 110, 90)
    assert not chain.write_known


def test_an_earlier_time_shows_what_had_begun_by_then() -> None:
    again = event("partition_leader_elected/7@6", 5000, "", "transfer", "demo/t-0", group="7", term="6")
    assert leader_of(LOST, GONE, ELECTED, again).steps[-1].id == again.id
    assert leader_of(LOST, GONE, ELECTED, again, at_ms=4999).steps[-1].id == ELECTED.id
    assert leader_of(LOST, GONE, ELECTED, again, at_ms=1000).steps[-1].id == ELECTED.id, "its first sign had come"
    assert leader_of(LOST, GONE, ELECTED, again, at_ms=999).steps == ()


def test_clocks_that_differ_show_nothing_before_what_it_follows_from() -> None:
    early = event(ELECTED.id, 990, GONE.id, "refused", "demo/t-0", group="7")
    assert shown(leader_of(LOST, GONE, early)) == [
        ("connection_lost", 0, None),
        ("process_gone", 20, 20),
        ("partition_leader_elected", 20, 0),
    ]


def test_events_in_a_ring_end() -> None:
    one, two = event("a/1@1", 1, "b/1@1"), event("b/1@1", 1, "a/1@1")
    assert known(one, two).back_from(one) == [two.id, one.id]


def test_an_owner_and_a_move_of_replicas_have_chains_of_their_own() -> None:
    to_it = event("partition_written/7@epoch-9", 2300, f"bundle_moved/{BUNDLE}@9", "new_owner", "demo/t-0", group="7")
    to_another = event(
        "partition_written/8@epoch-9", 2200, f"bundle_moved/{BUNDLE}@9", "new_owner", "demo/t-1", group="8"
    )
    began = event("replica_move_began/7@1", 3000, "", "decommission", "demo/t-0", group="7")
    ended = event("replica_moved/7@1", 3900, began.id, "decommission", "demo/t-0", group="7")
    events = known(moved(BUNDLE, 9, 2100), BROKER_GONE, to_it, to_another, began, ended)
    leader, owner, replicas = of_partition(events, "demo/t", 0, 7, BUNDLE, NOW)
    assert leader.steps == ()
    assert shown(owner) == [("process_gone", 0, None), ("bundle_moved", 100, 100), ("partition_written", 300, 200)]
    assert shown(replicas) == [("replica_move_began", 0, None), ("replica_moved", 900, 900)]
    assert replicas.write_known, "none is waited for"


def test_of_a_broker_all_bundles_are_shown_that_moved_for_the_same_event() -> None:
    earlier = moved("demo/8-f", 3, 500, "broker_drained/br1@4", "drained")
    first, second = moved(BUNDLE, 9, 2100), moved("demo/8-f", 9, 2105)
    written = event("partition_written/8@epoch-9", 2200, second.id, "new_owner", "demo/t-1", group="8")
    events = known(earlier, second, first, BROKER_GONE, written)
    (left,) = of_broker(events, "br1", NOW)
    assert left.about == "bundles that left it"
    assert [s.id for s in left.steps] == [BROKER_GONE.id, first.id, second.id, written.id]
    (came,) = of_broker(events, "br2", NOW)
    assert [s.id for s in came.steps] == [s.id for s in left.steps]
    (drained,) = of_broker(events, "br1", 1999)
    assert [s.id for s in drained.steps] == ["broker_drained/br1@4", earlier.id]
    assert not drained.write_known


def test_a_broker_without_bundles_is_shown_as_a_process() -> None:
    (process,) = of_broker(known(BROKER_GONE), "br1", NOW)
    assert (process.about, [s.id for s in process.steps]) == ("process", [BROKER_GONE.id])
    (nothing,) = of_broker(known(), "br1", NOW)
    assert nothing.steps == ()


def test_one_occurrence_told_by_several_is_one_event_as_early_as_anybody_saw_it() -> None:
    told = KnownEvents()
    bare = event(ELECTED.id, 1120, subject="demo/t-0", group="7")
    told.add(event(ELECTED.id, 9000, subject="demo/t-0", group="7"), found=True)
    told.add(bare, found=False)
    told.add(ELECTED, found=False)
    told.add(event(ELECTED.id, 10, subject="demo/t-0", group="7"), found=True)
    (merged,) = told.events.values()
    assert (merged.cause, merged.caused_by, merged.time_ms) == ("refused", GONE.id, 1110)
