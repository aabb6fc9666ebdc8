"""Bundles: even, minimal movement, never to a broker that is gone, always under a higher epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.nameserver.bundle_assignment import Assign, BrokerCandidate, BundleCause, Pulse, assign, split, unload
from stele.nameserver.catalog import BundleEntry, Member, MemberKind, MemberState
from tests.support.both_ways import holds_and_mutant_fails, promise

BUNDLES = [f"demo/{i:02d}" for i in range(16)]
Assigner = Callable[..., list[Assign]]


def broker(
    name: str,
    zxid: int = 10,
    state: str = MemberState.READY,
    pulse: Pulse = Pulse.ALIVE,
    drained: bool = False,
) -> BrokerCandidate:
    return BrokerCandidate(Member(MemberKind.BROKERS, name, f"{name}:1", state=state, joined_zxid=zxid), pulse, drained)


def by_name(brokers: Iterable[BrokerCandidate]) -> dict[str, BrokerCandidate]:
    return {b.member.name: b for b in brokers}


def carry_out(records: dict[str, BundleEntry], changes: Iterable[Assign], zxid: int) -> dict[str, BundleEntry]:
    return {**records, **{c.bundle: BundleEntry(c.bundle, c.broker, c.epoch, zxid, cause=c.cause) for c in changes}}


def settle(
    records: dict[str, BundleEntry], brokers: dict[str, BrokerCandidate], zxid: int, assigner: Assigner = assign
) -> tuple[dict[str, BundleEntry], list[Assign]]:
    """Rounds until nothing changes."""
    made: list[Assign] = []
    for _ in range(100):
        changes = assigner(BUNDLES, records, brokers)
        if not changes:
            return records, made
        made += changes
        records = carry_out(records, changes, zxid)
    raise AssertionError("assignments never settle")


def counts(records: dict[str, BundleEntry]) -> Counter[str]:
    return Counter(b.broker for b in records.values())


def test_every_bundle_gets_an_owner_evenly() -> None:
    records, made = settle({}, by_name([broker("br1"), broker("br2"), broker("br3")]), 20)
    assert sorted(counts(records).values()) == [5, 5, 6]
    assert len(made) == 16
    assert {m.epoch for m in made} == {1}


def test_nothing_moves_where_everything_fits() -> None:
    brokers = by_name([broker("br1"), broker("br2")])
    records, _ = settle({}, brokers, 20)
    assert assign(BUNDLES, records, brokers) == []


def test_only_the_bundles_of_a_gone_broker_move() -> None:
    records, _ = settle({}, by_name([broker("br1"), broker("br2"), broker("br3")]), 20)
    lost = {b.name for b in records.values() if b.broker == "br2"}
    after, made = settle(records, by_name([broker("br1"), broker("br3")]), 30)
    assert {m.bundle for m in made} == lost
    assert all(m.cause == "gone" and m.former == "br2" and m.epoch == 2 for m in made)
    assert set(counts(after).values()) == {8}


def test_a_joining_broker_gets_just_what_evens_it_out() -> None:
    records, _ = settle({}, by_name([broker("br1"), broker("br2")]), 20)
    brokers = by_name([broker("br1"), broker("br2"), broker("br3", zxid=25)])
    assert len(assign(BUNDLES, records, brokers)) <= 4
    after, made = settle(records, brokers, 30)
    assert sorted(counts(after).values()) == [5, 5, 6]
    assert all(m.broker == "br3" and m.cause == "even" for m in made)
    assert len(made) == 5


def test_a_draining_broker_is_emptied_but_not_if_it_is_the_last() -> None:
    records, _ = settle({}, by_name([broker("br1"), broker("br2")]), 20)
    draining = broker("br1", state=MemberState.DRAINING)
    after, made = settle(records, by_name([draining, broker("br2")]), 30)
    assert counts(after) == {"br2": 16}
    assert all(m.cause == "draining" for m in made)
    assert assign(BUNDLES, records, by_name([draining])) != []
    alone = {n: BundleEntry(n, "br1", 1, 20) for n in BUNDLES}
    assert assign(BUNDLES, alone, by_name([draining])) == []


async def test_a_drained_broker_is_emptied_and_gets_nothing_however_often_it_restarts() -> None:
    async def scenario(assigner: Assigner) -> None:
        records, _ = settle({}, by_name([broker("br1"), broker("br2")]), 20)
        moments = [
            broker("br1", drained=True),
            broker("br1", zxid=25, drained=True),
            broker("br1", zxid=35, drained=True),
        ]
        for at, drained in enumerate(moments):
            records, made = settle(records, by_name([drained, broker("br2")]), 30 + 10 * at, assigner)
            with promise("a drained broker has no bundle"):
                assert counts(records) == {"br2": 16}
            assert {m.cause for m in made} <= {BundleCause.DRAINED}
        back, made = settle(records, by_name([broker("br1", zxid=35), broker("br2")]), 60, assigner)
        assert counts(back) == {"br1": 8, "br2": 8}
        assert {m.cause for m in made} == {BundleCause.EVEN}

    await holds_and_mutant_fails(scenario, assign, "ownership.drains_the_process")


def test_where_every_broker_is_drained_each_keeps_what_it_has_and_what_is_nobodys_waits() -> None:
    records, _ = settle({}, by_name([broker("br1"), broker("br2")]), 20)
    both = by_name([broker("br1", drained=True), broker("br2", drained=True)])
    assert assign(BUNDLES, records, both) == []
    after, _ = settle(records, by_name([broker("br2", drained=True)]), 30)
    assert counts(after) == {"br2": 8, "": 8}


def test_what_an_operator_gave_to_a_broker_is_not_evened_away_and_goes_with_it() -> None:
    brokers = by_name([broker("br1"), broker("br2")])
    records, _ = settle({}, brokers, 20)
    given = [b.name for b in records.values() if b.broker == "br1"]
    records = carry_out(
        records, [Assign(n, "br2", records[n].epoch + 1, "br1", BundleCause.OPERATOR) for n in given[:2]], 30
    )
    after, made = settle(records, brokers, 40)
    assert counts(after) == {"br1": 8, "br2": 8}
    assert not {m.bundle for m in made} & set(given[:2])
    everything = carry_out(
        after, [Assign(n, "br2", after[n].epoch + 1, "", BundleCause.OPERATOR) for n in sorted(after)], 50
    )
    assert assign(BUNDLES, everything, brokers) == [], "as the operator would have it"
    gone, made = settle(everything, by_name([broker("br1")]), 60)
    assert counts(gone) == {"br1": 16}
    assert counts(settle(gone, brokers, 70)[0]) == {"br1": 8, "br2": 8}


def test_what_is_unloaded_goes_to_others_and_what_comes_back_is_something_else() -> None:
    brokers = by_name([broker("br1"), broker("br2"), broker("br3")])
    records, _ = settle({}, brokers, 20)
    chosen = [b.name for b in records.values() if b.broker == "br1"][:3]
    changes = unload(chosen, records, brokers, {chosen[0]: 9})
    assert [c.bundle for c in changes] == sorted(chosen)
    assert {c.broker for c in changes} == {"br2", "br3"}, "evenly"
    assert all(c.former == "br1" and c.cause is BundleCause.UNLOADED for c in changes)
    assert {c.bundle: c.epoch for c in changes} == {n: 10 if n == chosen[0] else 2 for n in chosen}
    after, made = settle(carry_out(records, changes, 30), brokers, 40)
    assert max(counts(after).values()) - min(counts(after).values()) <= 1
    assert not {m.bundle for m in made} & set(chosen)
    alone = by_name([broker("br1"), broker("br2", drained=True), broker("br3", pulse=Pulse.REFUSED)])
    assert unload(chosen, records, alone) == []


def test_a_broker_that_was_unloaded_again_and_again_is_given_its_share_all_the_same() -> None:
    brokers = by_name([broker("br1"), broker("br2")])
    records, _ = settle({}, brokers, 20)
    for at in range(4):
        owned = [b.name for b in records.values() if b.broker == "br1"]
        records = carry_out(records, unload(owned, records, brokers), 30 + 20 * at)
        assert counts(records) == {"br2": 16}
        records, _ = settle(records, brokers, 40 + 20 * at)
        assert counts(records) == {"br1": 8, "br2": 8}


def test_a_broker_that_registered_again_gets_its_bundles_under_a_higher_epoch() -> None:
    brokers = by_name([broker("br1"), broker("br2")])
    records, _ = settle({}, brokers, 20)
    again = by_name([broker("br1", zxid=25), broker("br2")])
    after, made = settle(records, again, 30)
    assert {m.bundle for m in made} == {b.name for b in records.values() if b.broker == "br1"}
    assert all(m.broker == "br1" and m.epoch == 2 and m.cause == "reregistered" for m in made)
    assert counts(after) == counts(records)


def test_a_refusing_port_counts_as_gone_before_the_registration_goes() -> None:
    records, _ = settle({}, by_name([broker("br1"), broker("br2")]), 20)
    after, made = settle(records, by_name([broker("br1", pulse=Pulse.REFUSED), broker("br2")]), 30)
    assert counts(after) == {"br2": 16}
    assert all(m.cause == "gone" for m in made)


def test_a_silent_broker_keeps_what_it_has_and_gets_nothing_new() -> None:
    records, _ = settle({}, by_name([broker("br1"), broker("br2")]), 20)
    brokers = by_name([broker("br1", pulse=Pulse.SILENT), broker("br2"), broker("br3", zxid=25)])
    after, _ = settle(records, brokers, 30)
    assert counts(after)["br1"] == 8
    assert assign(BUNDLES, {}, brokers) != []
    assert all(m.broker != "br1" for m in assign(BUNDLES, {}, brokers))


def test_silent_brokers_are_better_than_none_and_unprobed_ones_are_waited_for() -> None:
    assert {m.broker for m in assign(BUNDLES, {}, by_name([broker("br1", pulse=Pulse.SILENT)]))} == {"br1"}
    assert assign(BUNDLES, {}, by_name([broker("br1", pulse=Pulse.UNPROBED)])) == []
    owned = {n: BundleEntry(n, "br1", 1, 20) for n in BUNDLES}
    assert assign(BUNDLES, owned, by_name([broker("br1", pulse=Pulse.UNPROBED)])) == []


def test_without_any_broker_the_gone_owner_is_struck_out_once() -> None:
    owned = {n: BundleEntry(n, "br1", 3, 20) for n in BUNDLES}
    after, made = settle(owned, {}, 30)
    assert counts(after) == {"": 16}
    assert {m.epoch for m in made} == {4}
    assert assign(BUNDLES, after, {}) == []


async def test_p23_registered_brokers_keep_their_bundles_where_nobody_could_take_them() -> None:
    """Every port seems to refuse: that is the leader's own route or a firewall, and the brokers serve on."""

    async def scenario(assigner: Assigner) -> None:
        records, _ = settle({}, by_name([broker("br1"), broker("br2")]), 20)
        unreachable = by_name([broker("br1", pulse=Pulse.REFUSED), broker("br2", pulse=Pulse.REFUSED)])
        with promise("who is registered keeps what nobody else could take"):
            assert assigner(BUNDLES, records, unreachable) == []
            assert counts(settle(records, by_name([broker("br1", pulse=Pulse.REFUSED)]), 30, assigner)[0])["br1"] == 8

    await holds_and_mutant_fails(scenario, assign, "ownership.takes_what_nobody_can_have")


pulses = st.sampled_from(list(Pulse))
drained = st.sampled_from([False, False, True])
states = st.sampled_from([MemberState.READY, MemberState.DRAINING, MemberState.LOADING])


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, BrokerCandidate]]:
    """A sequence of moments; each says which brokers are registered, in which incarnation and state."""
    moments = []
    for at in range(draw(st.integers(1, 6))):
        present = draw(st.sets(st.integers(1, 5)))
        moments.append(
            by_name(
                broker(f"br{n}", draw(st.integers(0, at)) * 10, draw(states), draw(pulses), draw(drained))
                for n in present
            )
        )
    return moments


@given(histories())
def test_whatever_happens_assignments_settle_evenly_and_epochs_only_rise(
    history: list[dict[str, BrokerCandidate]],
) -> None:
    records: dict[str, BundleEntry] = {}
    for at, brokers in enumerate(history):
        before = records
        records, made = settle(records, brokers, at * 10 + 5)
        for m in made:
            if m.broker:
                assert m.broker in brokers
                assert brokers[m.broker].pulse in (Pulse.ALIVE, Pulse.SILENT)
                assert brokers[m.broker].member.state == MemberState.READY
                assert not brokers[m.broker].drained
        for name, bundle in records.items():
            known = before.get(name)
            assert known is None or bundle.epoch >= known.epoch
            assert known is None or bundle.broker == known.broker or bundle.epoch > known.epoch
        alive = [
            n
            for n, b in brokers.items()
            if b.pulse is Pulse.ALIVE and b.member.state == MemberState.READY and not b.drained
        ]
        if alive:
            held = counts(records)
            assert sum(held.values()) == len(BUNDLES)
            assert max(held[n] for n in alive) - min(held[n] for n in alive) <= 1


async def test_r5_9_no_assignment_names_a_member_that_is_gone() -> None:
    async def scenario(assigner: Assigner) -> None:
        records, _ = settle({}, by_name([broker("br1"), broker("br2")]), 20)
        _, made = settle(records, by_name([broker("br2")]), 30, assigner)
        with promise("no assignment names a broker that is gone"):
            assert made, "the bundles of the dead broker stay with it"
            assert all(m.broker == "br2" for m in made)

    await holds_and_mutant_fails(scenario, assign, "ownership.assigns_by_name")


async def test_r5_10_a_new_incarnation_never_inherits_an_epoch() -> None:
    async def scenario(assigner: Assigner) -> None:
        records, _ = settle({}, by_name([broker("br1")]), 20)
        after, _ = settle(records, by_name([broker("br1", zxid=25)]), 30, assigner)
        with promise("a broker that registered anew owns under a new epoch"):
            assert all(after[n].epoch > records[n].epoch for n in BUNDLES)

    await holds_and_mutant_fails(scenario, assign, "ownership.keeps_the_epoch")


@pytest.mark.parametrize("number", [1, 2, 5, 16, 40])
def test_any_number_of_brokers_is_served(number: int) -> None:
    brokers = by_name(broker(f"br{i:02d}") for i in range(number))
    records, _ = settle({}, brokers, 20)
    held = counts(records)
    assert max(held[b] for b in brokers) - min(held[b] for b in brokers) <= 1


async def test_p3_a_bundle_whose_record_is_behind_its_partitions_is_given_above_them() -> None:
    """ZooKeeper was put back to an older copy: every write of the owner that it names would be refused."""
    brokers = by_name([broker("br1"), broker("br2")])
    records, _ = settle({}, brokers, 20)
    overtaken, gone, fine = BUNDLES[0], BUNDLES[1], BUNDLES[2]
    records[gone] = BundleEntry(gone, "br9", 1, 20)
    seen = {overtaken: 7, gone: 5, fine: 1}

    async def scenario(assigner: Assigner) -> None:
        changes = {c.bundle: c for c in assigner(BUNDLES, records, brokers, 0, seen)}
        with promise("a bundle is given above what its partitions have seen"):
            assert changes.get(overtaken) == Assign(
                overtaken, records[overtaken].broker, 8, records[overtaken].broker, "overtaken"
            )
            assert changes[gone].epoch == 6
        assert fine not in changes
        assert assigner(BUNDLES, carry_out(records, changes.values(), 30), brokers, 0, seen) == []

    await holds_and_mutant_fails(scenario, assign, "ownership.forgets_what_was_seen")


async def test_r5_10_the_halves_of_a_bundle_are_given_above_everything_that_was_before() -> None:
    bundle, two = "demo/00000000-ffffffff", ("demo/00000000-7fffffff", "demo/80000000-ffffffff")
    records = {bundle: BundleEntry(bundle, "br1", 4, 20)}
    former = {**records, two[1]: BundleEntry(two[1], "", 9, 20)}  # of a namespace that had this name before

    async def scenario(splitter: Callable[..., list[Assign]]) -> None:
        for known, seen, epoch in ((records, 0, 5), (records, 6, 7), (former, 6, 10), ({}, 3, 4)):
            changes = {a.bundle: a for a in splitter(bundle, two, known, "br1" if known else "", seen)}
            assert changes.keys() == {bundle, *two}
            with promise("halves of a bundle have an epoch above it"):
                assert {a.epoch for a in changes.values()} == {epoch}
            assert changes[bundle].broker == ""
            assert {changes[half].broker for half in two} == {"br1" if known else ""}

    await holds_and_mutant_fails(scenario, split, "ownership.splits_under_the_old_epoch")
