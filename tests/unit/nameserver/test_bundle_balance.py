"""Balance by what goes through: it comes to an end, moves little, and nothing to and fro."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from stele.nameserver.bundle_assignment import Assign, BundleCause, Pulse, assign
from stele.nameserver.bundle_balance import BAND, BUNDLE_COST
from stele.nameserver.bundle_loads import HALF_LIFE_S, MESSAGES_PER_S, BundleLoads, Counted
from stele.nameserver.bundle_writer import BundleWriter
from stele.nameserver.catalog import BundleEntry, Catalog, Member, MemberState
from tests.unit.nameserver.test_bundle_assignment import broker, by_name, carry_out

Owners = dict[str, str]
MOVES_MAX = 4
traffics = st.one_of(st.just(0.0), st.floats(0, 5), st.floats(0, 300))


@st.composite
def placements(draw: st.DrawFn) -> tuple[int, Owners, dict[str, float]]:
    """How many brokers, who owns what, and what goes through."""
    brokers = draw(st.integers(2, 5))
    names = [f"demo/{i:02d}" for i in range(draw(st.integers(1, 24)))]
    owners = {n: f"br{draw(st.integers(1, brokers))}" for n in names}
    return brokers, owners, {n: draw(traffics) for n in names}


def records_of(owners: Owners) -> dict[str, BundleEntry]:
    return {n: BundleEntry(n, owner, 1, 20) for n, owner in owners.items()}


def owners_of(records: Mapping[str, BundleEntry]) -> Owners:
    return {n: r.broker for n, r in records.items()}


def loads(brokers: int, owners: Owners, traffic: Mapping[str, float]) -> dict[str, float]:
    found = {f"br{i + 1}": 0.0 for i in range(brokers)}
    for name, owner in owners.items():
        found[owner] += BUNDLE_COST + traffic[name]
    return found


def one_round(brokers: int, records: dict[str, BundleEntry], traffic: Mapping[str, float]) -> list[Assign]:
    alive = by_name(broker(f"br{i + 1}") for i in range(brokers))
    return assign(sorted(records), records, alive, MOVES_MAX, None, traffic)


def evened(
    brokers: int, owners: Owners, traffic: Mapping[str, float], rounds_max: int = 200
) -> tuple[Owners, list[Assign]]:
    """Once nothing moves any more."""
    records, made = records_of(owners), []
    for number in range(rounds_max):
        changes = one_round(brokers, records, traffic)
        if not changes:
            return owners_of(records), made
        made += changes
        records = carry_out(records, changes, 30 + number)
    raise AssertionError("it has no end")


@given(placements())
def test_it_comes_to_an_end_and_each_round_makes_it_more_even_by_few_moves(
    placed: tuple[int, Owners, dict[str, float]],
) -> None:
    brokers, owners, traffic = placed
    records = records_of(owners)

    def squares() -> float:
        return sum(load**2 for load in loads(brokers, owners_of(records), traffic).values())

    for number in range(200):
        before = squares()
        changes = one_round(brokers, records, traffic)
        if not changes:
            break
        assert len(changes) <= MOVES_MAX
        assert {c.cause for c in changes} == {BundleCause.EVEN}
        records = carry_out(records, changes, 30 + number)
        assert squares() < before
    else:
        raise AssertionError("it has no end")
    now = loads(brokers, owners_of(records), traffic)
    band = BUNDLE_COST + BAND * sum(traffic.values()) / brokers
    most, least = max(now.values()), min(now.values())
    heavy = [n for n, owner in owners_of(records).items() if now[owner] == most]
    assert most - least <= band * (1 + 1e-6) or all(2 * (BUNDLE_COST + traffic[n]) > most - least for n in heavy), (
        "what could be evened out is"
    )


@given(placements(), st.integers(0, 1 << 32))
def test_under_traffic_that_trembles_nothing_goes_to_and_fro(
    placed: tuple[int, Owners, dict[str, float]], seed: int
) -> None:
    brokers, owners, traffic = placed
    owners, _ = evened(brokers, owners, traffic)
    records, rng = records_of(owners), random.Random(seed)
    been: dict[str, list[str]] = {n: [owner] for n, owner in owners.items()}
    moves = 0
    for number in range(40):
        trembling = {n: t * rng.uniform(0.97, 1.03) for n, t in traffic.items()}
        changes = one_round(brokers, records, trembling)
        for c in changes:
            assert c.broker not in been[c.bundle], f"{c.bundle} was with {been[c.bundle]} and comes back to {c.broker}"
            been[c.bundle].append(c.broker)
        moves += len(changes)
        records = carry_out(records, changes, 30 + number)
    assert moves <= len(owners)


@given(placements())
def test_a_new_broker_gets_its_share_and_the_others_keep_the_rest(
    placed: tuple[int, Owners, dict[str, float]],
) -> None:
    brokers, owners, traffic = placed
    owners, _ = evened(brokers, owners, traffic)
    after, made = evened(brokers + 1, owners, traffic)
    joined = f"br{brokers + 1}"
    assert len({m.bundle for m in made}) == len(made), "none moves twice"
    if len(owners) > brokers and not any(traffic.values()):
        assert {m.broker for m in made} == {joined}
        assert abs(list(after.values()).count(joined) - len(owners) / (brokers + 1)) < 1


def test_bundles_that_many_use_are_parted_and_one_that_is_all_the_load_stays() -> None:
    owners = dict.fromkeys(("a", "b", "c", "d"), "br1") | dict.fromkeys(("e", "f", "g", "h"), "br2")
    hot = dict.fromkeys(owners, 0.0) | {"a": 100.0, "b": 100.0}
    after, made = evened(2, owners, hot)
    assert after["a"] != after["b"]
    assert len([m for m in made if m.bundle in ("a", "b")]) == 1
    one = dict.fromkeys(owners, 0.0) | {"a": 100.0}
    after, made = evened(2, owners, one)
    assert after["a"] == "br1"
    assert {m.bundle for m in made} == {"b", "c", "d"}, "the others make room for it"


def test_the_one_with_least_traffic_of_those_that_suffice_is_moved() -> None:
    owners = {"a": "br1", "b": "br1", "c": "br1", "d": "br1", "e": "br2"}
    traffic = {"a": 50.0, "b": 30.0, "c": 22.0, "d": 1.0, "e": 50.0}
    _, made = evened(2, owners, traffic)
    assert [(m.bundle, m.broker) for m in made] == [("c", "br2")]


def test_what_an_operator_sent_away_does_not_come_back_for_its_traffic() -> None:
    """The best move there is, by what goes through: it would undo what was asked for a moment ago."""
    owners = {"a": "br1", "b": "br1", "c": "br1", "d": "br2", "e": "br2", "hot": "br2"}
    traffic = dict.fromkeys(owners, 0.0) | {"hot": 40.0, "a": 30.0}
    records = carry_out(records_of(owners), [Assign("hot", "br1", 2, "br2", BundleCause.UNLOADED)], 25)
    for number in range(20):
        changes = one_round(2, records, traffic)
        assert "hot" not in {c.bundle for c in changes}
        records = carry_out(records, changes, 30 + number)
    assert owners_of(records)["a"] == "br2", "the others make room for it"


# --- what is measured ---------------------------------------------------------------------------------------------------


def test_a_rate_is_what_was_counted_by_the_time_that_passed_and_is_smoothed() -> None:
    said = BundleLoads()
    said.heard("br1", {"a": Counted(1, 1_000, 0)}, 10.0)
    assert not said.knows("br1")
    assert said.costs == {}
    said.heard("br1", {"a": Counted(1, 3_000, 1024 * 1_000)}, 20.0)
    assert said.knows("br1")
    first = 300 / MESSAGES_PER_S
    assert abs(said.costs["a"] - first) < 1e-9
    said.heard("br1", {"a": Counted(1, 3_000, 1024 * 1_000)}, 20.0 + HALF_LIFE_S)
    assert abs(said.costs["a"] - first / 2) < 1e-9, "half of it is left after the half-life"


def test_a_new_owner_counts_from_its_own_beginning_and_the_rate_goes_with_the_bundle() -> None:
    said = BundleLoads()
    said.heard("br1", {"a": Counted(1, 0, 0)}, 0.0)
    said.heard("br1", {"a": Counted(1, 10_000, 0)}, 10.0)
    before = said.costs["a"]
    said.heard("br2", {"a": Counted(2, 5, 0)}, 11.0)
    said.heard("br1", {"a": Counted(3, 7, 0)}, 12.0)
    assert said.costs["a"] == before, "counts under another epoch say nothing beside those"
    said.heard("br2", {}, 12.0)
    assert said.knows("br2")
    said.heard("br2", {"a": Counted(2, 9, 0)}, 12.0)
    said.keep({"br2"}, {"b": None})
    assert said.costs == {}
    assert not said.knows("br1")
    said.has_none("br3")
    assert said.knows("br3")


async def test_nothing_is_evened_out_before_the_traffic_of_every_owner_is_known() -> None:
    """A leader that was elected a moment ago would even out by count alone, and undo what traffic had placed."""
    known: set[str] = set()

    class Traffic:
        costs: Mapping[str, float] = {"demo/00": 7.0}

        def knows(self, member: Member) -> bool:
            return member.name in known

    asked: list[tuple[int, Mapping[str, float]]] = []

    def assigner(
        _wanted: object, _records: object, _brokers: object, moves_max: int, _seen: object, traffic: Any
    ) -> list[Assign]:
        asked.append((moves_max, traffic))
        return []

    members = {n: replace(broker(n).member, name=n) for n in ("br1", "br2")}
    loading = replace(members["br1"], name="br3", state=MemberState.DRAINING)
    catalog = Catalog(brokers={**members, "br3": loading})
    writer = BundleWriter(cast(Any, None), lambda _: Pulse.ALIVE, Traffic(), assigner=assigner)
    for name in ("", "br1", "br2"):
        known.add(name)
        await writer.settle(catalog)
    assert [moves for moves, _ in asked] == [0, 0, MOVES_MAX], "who may be given none need not be heard"
    assert all(traffic == Traffic.costs for _, traffic in asked)
