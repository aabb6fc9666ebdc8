"""Whether a process can be stopped: never said where a group, a bundle or the leadership would be without anybody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.nameserver.bundle_assignment import BrokerCandidate, Pulse
from stele.nameserver.catalog import Catalog, Member, MemberKind
from stele.nameserver.reports import Reports, disconnected
from stele.nameserver.stop_safety import (
    SHOWN_MAX,
    broker_reasons,
    committed_by,
    nameserver_reasons,
    store_reasons,
)
from stele.services.pb.nameserver_pb2 import GetClusterResponse
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.unit.nameserver.test_moves import ready_world
from tests.unit.nameserver.world import World

COMMITTED = 10
Decide = Callable[..., list[str]]


class Moment:
    """What leaders said first, and what everybody says after it."""

    def __init__(self, world: World, behind: dict[tuple[int, int], int] | None = None) -> None:
        """``behind``: by how many entries a store's replica of a group lags."""
        self.world, self.behind = world, behind or {}
        self.catalog: Catalog = world.catalog()
        self.reports: Reports = world.reports()
        for store_id, report in self.reports.items():
            for group, replica in report.replicas.items():
                replica.commit_index = COMMITTED - self.behind.get((store_id, group), 0)
        self.committed = committed_by(self.reports)

    def silence(self, store_id: int) -> Moment:
        self.reports = {s: r for s, r in self.reports.items() if s != store_id}
        return self

    def reasons(self, store_id: int, decide: Decide = store_reasons) -> list[str]:
        return decide(store_id, self.catalog, self.reports, self.committed)


def test_of_three_whole_stores_any_can_be_stopped() -> None:
    moment = Moment(ready_world(6, stores=3))
    assert [moment.reasons(s) for s in (1, 2, 3)] == [[], [], []]


async def test_without_a_majority_of_others_that_follow_a_store_cannot_be_stopped() -> None:
    async def scenario(decide: Decide) -> None:
        world = ready_world(2, stores=3)
        for group in world.partitions:
            world.held[3].discard(group)  # it serves, and its replicas are lost
        said = Moment(world).reasons(1, decide)
        with promise("no group is left without a majority that follows"):
            assert said == [
                f"demo/t-{i}: 1 of 3 voters would be left, which is no majority: dn3 has no replica of it"
                for i in (0, 1)
            ]

    await holds_and_mutant_fails(scenario, store_reasons, "stops.counts_what_is_registered")


@pytest.mark.parametrize("mutant", ["stops.takes_registered_for_well", "stops.counts_what_is_registered"])
async def test_what_does_not_answer_is_never_called_safe(mutant: str) -> None:
    async def scenario(decide: Decide) -> None:
        world = ready_world(1, stores=3)
        with promise("what does not answer is never called safe"):
            for silent in (1, 2, 3):
                for asked in (1, 2, 3):
                    assert Moment(world).silence(silent).reasons(asked, decide) != []
            for silent in (1, 2, 3):
                moment = Moment(world)
                moment.reports = {s: disconnected(r) if s == silent else r for s, r in moment.reports.items()}
                assert all(moment.reasons(asked, decide) for asked in (1, 2, 3))

    await holds_and_mutant_fails(scenario, store_reasons, mutant)


async def test_a_replica_that_lacks_something_is_waited_for() -> None:
    async def scenario(decide: Decide) -> None:
        world = ready_world(1, stores=3)
        moment = Moment(world, {(3, 1): 4})
        with promise("a replica that is only just back is waited for"):
            assert moment.reasons(2, decide) == [
                "demo/t-0: 1 of 3 voters would be left, which is no majority: dn3 lacks 4 of its entries"
            ]
            assert moment.reasons(3, decide) == ["demo/t-0: dn3 lacks 4 of its entries"], "itself, too"

    await holds_and_mutant_fails(scenario, store_reasons, "stops.waits_for_nobody")


def test_what_was_committed_before_anybody_was_asked_counts_and_not_what_came_since() -> None:
    moment = Moment(ready_world(1, stores=3))
    leader = moment.world.leader(1)
    moment.reports[leader].replicas[1].commit_index += 1_000
    assert moment.reasons(2) == []
    moment.committed = {}
    assert moment.reasons(2) == [
        "demo/t-0: 0 of 3 voters would be left, which is no majority: "
        "dn1 is not known to hold all of it; dn2 is not known to hold all of it; dn3 is not known to hold all of it"
    ]


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        ("loading", "dn3 is loading"),
        ("draining", "dn3 is draining"),
        ("disk full", "dn3 has no room on its disk"),
        ("recovering", "dn3 has it recovering"),
        ("another term", "dn3 does not follow its leader yet"),
        ("no leader known", "dn3 does not follow its leader yet"),
        ("a problem", "dn3 has it follower (its disk is slow)"),
    ],
)
def test_a_store_in_trouble_does_not_count(trouble: str, says: str) -> None:
    world = ready_world(1, stores=3)
    if trouble == "loading":
        world.loading.add(3)
    moment = Moment(world)
    replica = moment.reports[3].replicas[1] if 3 in moment.reports else None
    match trouble, replica:
        case "draining", _:
            moment.reports[3].status.state = "draining"
        case "disk full", _:
            moment.reports[3].status.disk_full = True
        case "recovering", known if known is not None:
            known.state = "recovering"
        case "another term", known if known is not None:
            known.term -= 1
        case "no leader known", known if known is not None:
            known.leader_store_id = 0
        case "a problem", known if known is not None:
            known.problem = "its disk is slow"
    assert says in moment.reasons(2)[0]


def test_of_five_one_may_be_gone_for_good_and_one_that_is_back_is_waited_for() -> None:
    world = World(stores=(1, 2, 3, 4, 5), up={1, 2, 3, 4, 5}, held={s: set() for s in range(1, 6)})
    world.create("demo/t", 1, 1)
    world.partitions[1] = replace(world.partitions[1], replicas=(1, 2, 3, 4, 5))
    world.voters[1] = {1, 2, 3, 4, 5}
    for s in world.stores:
        world.held[s].add(1)
    assert Moment(world, {(5, 1): 1}).reasons(2) == ["demo/t-0: dn5 lacks 1 of its entries"]
    world.up.discard(5)
    assert Moment(world).reasons(2) == []
    world.up.discard(4)
    assert "2 of 5 voters would be left" in Moment(world).reasons(2)[0]


def test_one_replica_alone_is_missed_and_a_store_without_replicas_is_not() -> None:
    world = ready_world(1, stores=4)
    holders = world.partitions[1].replicas
    spare = next(s for s in world.stores if s not in holders)
    assert Moment(world).silence(holders[2]).reasons(spare) == [], "what others lack is not its matter"
    for s in holders[1:]:
        world.held[s].discard(1)
    world.voters[1] = {holders[0]}
    world.partitions[1] = replace(world.partitions[1], replicas=holders[:1])
    assert Moment(world).reasons(holders[0]) == ["demo/t-0: 0 of 1 voter would be left, which is no majority"]


def test_while_members_change_nothing_is_certain() -> None:
    moment = Moment(ready_world(1, stores=3))
    moment.reports[moment.world.leader(1)].replicas[1].members_settled = False
    assert moment.reasons(2) == ["demo/t-0: its members are being changed"]


def test_a_topic_that_is_deleted_holds_up_nobody() -> None:
    world = ready_world(3, stores=3)
    world.delete("demo/t")
    moment = Moment(world, {(3, 1): 5})
    assert moment.reasons(2) == []


def test_many_reasons_are_counted() -> None:
    moment = Moment(ready_world(SHOWN_MAX + 7, stores=3)).silence(3)
    said = moment.reasons(2)
    assert len(said) == SHOWN_MAX + 1
    assert said[-1] == "and of 7 more partitions"


def follows(world: World, store_id: int, group: int, behind: dict[tuple[int, int], int]) -> bool:
    """In truth."""
    return (
        store_id in world.up - world.loading and group in world.held[store_id] and not behind.get((store_id, group), 0)
    )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_called_safe_leaves_each_group_a_majority_and_whatever_is_whole_is_safe(
    data: st.DataObject,
) -> None:
    stores = data.draw(st.integers(3, 6))
    world = ready_world(data.draw(st.integers(1, 5)), stores=stores)
    anyone = st.sampled_from(sorted(world.stores))
    world.up -= data.draw(st.sets(anyone, max_size=2))
    world.loading |= data.draw(st.sets(anyone, max_size=1)) & world.up
    for s, g in data.draw(st.sets(st.tuples(anyone, st.sampled_from(sorted(world.partitions))), max_size=3)):
        world.held[s].discard(g)
    behind = data.draw(
        st.dictionaries(st.tuples(anyone, st.sampled_from(sorted(world.partitions))), st.integers(0, 3), max_size=3)
    )
    behind = {(s, g): n for (s, g), n in behind.items() if world.leader(g) != s}
    silent = data.draw(st.sets(anyone, max_size=1))
    asked = data.draw(anyone)
    moment = Moment(world, behind)
    for s in silent:
        moment.silence(s)
    said = moment.reasons(asked)
    whole = all(
        follows(world, s, g, behind) and s not in silent
        for g, voters in world.voters.items()
        if asked in voters
        for s in voters
    )
    assert (not said) >= (whole and asked in world.up - world.loading - silent), said
    if said:
        return
    assert asked not in silent
    for group, voters in world.voters.items():
        if asked in voters:
            left = [s for s in voters - {asked} - silent if follows(world, s, group, behind)]
            assert 2 * len(left) > len(voters), (group, left)


# --- brokers and nameservers --------------------------------------------------------------------------------------------


def candidates(**states: Any) -> dict[str, BrokerCandidate]:
    return {
        name: BrokerCandidate(Member(MemberKind.BROKERS, name, f"{name}:1"), Pulse.ALIVE, state == "drained")
        for name, state in states.items()
    }


async def test_a_broker_can_be_stopped_only_while_another_one_can_take_its_bundles() -> None:
    async def scenario(decide: Decide) -> None:
        with promise("another broker can take the bundles"):
            drained = candidates(br1="ready", br2="drained")
            assert decide("br1", drained, {"br1", "br2"}) == ["no other broker could take its bundles: br2 is drained"]
        assert decide("br2", drained, {"br1", "br2"}) == []
        two = candidates(br1="ready", br2="ready")
        assert decide("br1", two, {"br1", "br2"}) == []
        assert decide("br1", two, {"br1"}) == ["no other broker could take its bundles: br2 does not serve"]
        assert decide("br1", two, {"br2"}) == ["br1 itself does not serve"]
        assert decide("br1", candidates(br1="ready"), {"br1"}) == [
            "no other broker could take its bundles: there is none"
        ]
        three = candidates(br1="ready", br2="ready", br3="ready")
        assert decide("br1", three, {"br1", "br2"}) == ["br3 does not serve"], "it is waited for"

    await holds_and_mutant_fails(scenario, broker_reasons, "stops.counts_drained_brokers")


def test_a_broker_of_which_the_leader_has_not_heard_yet_takes_nothing() -> None:
    two = candidates(br1="ready", br2="ready")
    two["br2"] = replace(two["br2"], pulse=Pulse.UNPROBED)
    assert broker_reasons("br1", two, {"br1", "br2"}) == [
        "no other broker could take its bundles: br2 is ready, unprobed"
    ]


def answers(*names: str, apart: str = "") -> dict[str, GetClusterResponse]:
    return {n: GetClusterResponse(answered_by=n, coordination_connected=n != apart) for n in names}


async def test_a_nameserver_can_be_stopped_only_while_another_one_waits_to_lead() -> None:
    async def scenario(decide: Decide) -> None:
        two = ("ns1", "ns2")
        with promise("another nameserver waits to lead"):
            assert decide("ns1", two, {"ns1"}, answers(*two)) == [
                "no other nameserver could lead: ns2 does not stand for election yet"
            ]
        assert decide("ns1", two, set(two), answers(*two)) == []
        assert decide("ns1", two, set(two), answers("ns1")) == ["no other nameserver could lead: ns2 does not answer"]
        assert decide("ns1", two, set(two), answers("ns2")) == ["ns1 itself does not answer"]
        assert decide("ns1", two, set(two), answers(*two, apart="ns2")) == [
            "no other nameserver could lead: ns2 is out of touch with ZooKeeper"
        ]
        assert decide("ns1", ("ns1",), {"ns1"}, answers("ns1")) == ["no other nameserver could lead: there is none"]
        three = (*two, "ns3")
        assert decide("ns1", three, set(three), answers(*two)) == ["ns3 does not answer"], "it is waited for"
        taken = answers(*two)
        taken["ns2"].answered_by = "ns9"
        assert decide("ns1", two, set(two), taken) != []

    await holds_and_mutant_fails(scenario, nameserver_reasons, "stops.counts_who_answers")
