"""R2.1–R2.5 on the pure policy: hours of a cluster's life in milliseconds."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.services.errors import CoordinationUnknown, SteleError, StoreTombstone, StoreUnknown, Timeout, Unreachable
from stele.services.rpc.resolution import (
    BACKOFF,
    LOG_INTERVAL_S,
    STABLE_AFTER_S,
    Ask,
    Count,
    GiveAddress,
    Log,
    Refuse,
    ResolverEffect,
    ResolverPolicy,
    StoreAddress,
)
from tests.support.both_ways import holds_and_mutant_fails, promise

Nameserver = Callable[[int, float], StoreAddress | SteleError]
Policy = Callable[[random.Random], ResolverPolicy]
LOOKUPS_MAX = 20_000
HERE = StoreAddress("10.0.0.2:7000", "10.0.0.2:7001")
THERE = StoreAddress("10.0.0.3:7000", "10.0.0.3:7001")


class Life:
    """Carries the policy's effects out against a nameserver, on a clock that jumps from event to event."""

    def __init__(self, policy: Policy, nameserver: Nameserver, seed: int = 7) -> None:
        self.policy = policy(random.Random(seed))
        self.nameserver = nameserver
        self.now_s = 0.0
        self.lookups: list[float] = []
        self.logs: list[tuple[float, str]] = []
        self.counts: list[str] = []
        self.answers: list[tuple[float, StoreAddress]] = []
        self.refusals = 0
        self._due: list[tuple[float, int]] = []

    def want(self, store_id: int = 6365) -> None:
        self._carry_out(self.policy.wanted(store_id, self.now_s))

    def mismatch(self, address: StoreAddress, store_id: int = 6365) -> None:
        self._carry_out(self.policy.mismatched(store_id, address, self.now_s))

    def until(self, end_s: float) -> None:
        while self._due and self._due[0][0] <= end_s:
            self.now_s, store_id = heapq.heappop(self._due)
            self.lookups.append(self.now_s)
            assert len(self.lookups) < LOOKUPS_MAX, "lookups without end"
            said = self.nameserver(store_id, self.now_s)
            self._carry_out(
                self.policy.failed(store_id, said, self.now_s)
                if isinstance(said, SteleError)
                else self.policy.found(store_id, said, self.now_s)
            )
        self.now_s = end_s

    def _carry_out(self, effects: list[ResolverEffect]) -> None:
        self.policy.validate()
        for effect in effects:
            match effect:
                case Ask(store_id, delay_s):
                    heapq.heappush(self._due, (self.now_s + delay_s, store_id))
                case GiveAddress(_, address):
                    self.answers.append((self.now_s, address))
                case Refuse():
                    self.refusals += 1
                case Log(event):
                    self.logs.append((self.now_s, event))
                case Count(outcome):
                    self.counts.append(outcome)


def unknown(_store_id: int, _now_s: float) -> SteleError:
    return StoreUnknown("no such store")


async def the_type_decides_not_the_text(policy: Policy) -> None:
    removed = Life(policy, lambda *_: StoreTombstone("decommissioned on Monday"))
    removed.want()
    removed.until(60)
    with promise("what an error means does not hang on its text"):
        assert removed.refusals == 1
        assert len(removed.lookups) == 1
    waiting = Life(
        policy, lambda _, now: HERE if now > 30 else StoreUnknown("invalid store ID 6365, not found (tombstone?)")
    )
    waiting.want()
    waiting.until(60)
    with promise("what an error means does not hang on its text"):
        assert [address for _, address in waiting.answers] == [HERE]
        assert waiting.refusals == 0


async def test_r2_1_the_type_decides_not_the_text() -> None:
    await holds_and_mutant_fails(the_type_decides_not_the_text, ResolverPolicy, "resolver.MatchesText")


async def a_removed_store_is_asked_for_once(policy: Policy) -> None:
    life = Life(policy, lambda *_: StoreTombstone("removed"))
    for minute in range(60):
        for _ in range(20):
            life.want()
        life.until(60.0 * (minute + 1))
    with promise("a removed store is asked for once"):
        assert len(life.lookups) == 1
    assert [event for _, event in life.logs] == ["store_removed"]
    assert life.refusals >= 60
    assert life.policy.is_tombstone(6365)


@pytest.mark.parametrize("mutant", ["resolver.RetriesTombstones", "resolver.ForgetsTombstones"])
async def test_r2_3_a_removed_store_is_asked_for_once(mutant: str) -> None:
    await holds_and_mutant_fails(a_removed_store_is_asked_for_once, ResolverPolicy, mutant)


async def a_known_store_that_is_removed_later_is_given_up(policy: Policy) -> None:
    life = Life(policy, lambda _, now: HERE if now < 100 else StoreTombstone("removed"))
    life.want()
    life.until(200)
    life.mismatch(HERE)
    life.want()
    life.until(300)
    life.want()
    with promise("a removed store is asked for once"):
        assert life.policy.known(6365) is None
        assert (len(life.lookups), life.refusals) == (2, 2)


async def test_r2_3_a_known_store_that_is_removed_later_is_given_up() -> None:
    await holds_and_mutant_fails(
        a_known_store_that_is_removed_later_is_given_up, ResolverPolicy, "resolver.RetriesTombstones"
    )


async def a_cold_start_blocks_nobody(policy: Policy) -> None:
    """The whole cluster starts: B is asked for long before it registers."""
    registers_at_s = 45.0
    life = Life(policy, lambda _, now: HERE if now >= registers_at_s else StoreUnknown("not registered"))
    life.want()
    life.until(registers_at_s)
    assert not life.answers
    life.until(registers_at_s + BACKOFF.max_s)
    with promise("a store that starts late is reached as soon as it registers"):
        assert [address for _, address in life.answers] == [HERE]
    life.want()
    assert len(life.answers) == 2


@pytest.mark.parametrize("mutant", ["resolver.NotFoundIsTombstone", "resolver.BacksOffWithoutCap"])
async def test_r2_4_works_as_soon_as_it_registers(mutant: str) -> None:
    await holds_and_mutant_fails(a_cold_start_blocks_nobody, ResolverPolicy, mutant)


async def retries_are_paced_and_jittered(policy: Policy) -> None:
    life = Life(policy, unknown)
    life.want()
    with promise("retries are paced"):
        life.until(600)
    gaps = [later - earlier for earlier, later in zip(life.lookups, life.lookups[1:], strict=False)]
    with promise("the pause between retries is bounded"):
        assert all(gap <= BACKOFF.max_s for gap in gaps)
    with promise("retries are paced"):
        assert all(gap >= BACKOFF.max_s / 2 for gap in gaps[10:])
    with promise("retries are spread"):
        assert len({round(gap, 6) for gap in gaps[10:]}) > len(gaps[10:]) / 2
    assert len(life.counts) == len(life.lookups), "each attempt is counted"


@pytest.mark.parametrize(
    "mutant", ["resolver.NeverBacksOff", "resolver.BacksOffWithoutCap", "resolver.BacksOffWithoutJitter"]
)
async def test_r2_4_retries_are_paced_and_jittered(mutant: str) -> None:
    await holds_and_mutant_fails(retries_are_paced_and_jittered, ResolverPolicy, mutant)


async def logs_are_limited_per_store(policy: Policy) -> None:
    life = Life(policy, unknown)
    life.want(1)
    life.want(2)
    life.until(600)
    first = [when for when, _ in life.logs][:2]
    with promise("the first failed attempt is logged"):
        assert first == [0.0, 0.0], "at once, for each store"
    with promise("failed attempts are logged at most once a minute"):
        assert len(life.logs) <= 2 * (600 / LOG_INTERVAL_S + 1)
    assert len(life.logs) >= 2 * 600 / (LOG_INTERVAL_S + BACKOFF.max_s) - 2, "and again while it lasts"


@pytest.mark.parametrize("mutant", ["resolver.LogsEveryAttempt", "resolver.NeverLogs"])
async def test_r2_4_logs_are_limited_per_store(mutant: str) -> None:
    await holds_and_mutant_fails(logs_are_limited_per_store, ResolverPolicy, mutant)


async def an_impatient_caller_does_not_starve_the_lookup(policy: Policy) -> None:
    """Callers that give up before the next lookup is due, again and again, still get there."""
    life = Life(policy, lambda _, now: HERE if now > 20 else Unreachable("no nameserver"))
    while life.now_s < 60 and not life.answers:
        life.want()
        life.until(life.now_s + 0.4)
        if not life.answers:
            life.policy.abandoned(6365)
            life._due.clear()
    with promise("the pause does not start anew with each caller"):
        assert life.answers
    assert len(life.lookups) < 60


async def test_r2_4_an_impatient_caller_does_not_starve_the_lookup() -> None:
    await holds_and_mutant_fails(
        an_impatient_caller_does_not_starve_the_lookup, ResolverPolicy, "resolver.RestartsTheBackoff"
    )


async def a_reused_address_is_asked_for_again(policy: Policy) -> None:
    current = [HERE]
    life = Life(policy, lambda *_: current[0])
    life.want()
    life.until(100)
    current[0] = THERE
    life.want()
    assert life.answers[-1][1] == HERE
    life.mismatch(HERE)
    life.want()
    life.until(100)
    with promise("an address that is another store's is resolved again"):
        assert life.answers[-1] == (100, THERE)
    life.mismatch(HERE)  # a late complaint about the old address
    life.want()
    assert (life.answers[-1][1], len(life.lookups)) == (THERE, 2)


async def test_r2_5_a_reused_address_is_asked_for_again() -> None:
    await holds_and_mutant_fails(a_reused_address_is_asked_for_again, ResolverPolicy, "resolver.KeepsTheAddress")


async def a_view_that_stays_wrong_is_not_hammered(policy: Policy) -> None:
    """The nameserver has not noticed yet and names the wrong address each time."""
    life = Life(policy, lambda *_: HERE)
    with promise("complaints about an address do not make a storm"):
        while life.now_s < 60:
            life.want()
            life.until(life.now_s + 0.001)
            life.mismatch(HERE)
        assert len(life.lookups) <= 60 / (BACKOFF.max_s / 2) + 10


async def test_r2_5_a_view_that_stays_wrong_is_not_hammered() -> None:
    await holds_and_mutant_fails(a_view_that_stays_wrong_is_not_hammered, ResolverPolicy, "resolver.AsksWithoutPause")


async def test_r2_5_an_address_that_held_for_long_is_asked_for_at_once() -> None:
    life = Life(ResolverPolicy, lambda *_: HERE)
    for _ in range(20):
        life.want()
        life.until(life.now_s + BACKOFF.max_s)
        life.mismatch(HERE)
    life.want()
    life.until(life.now_s + BACKOFF.max_s + STABLE_AFTER_S)
    life.mismatch(HERE)
    life.want()
    asked_at_s, before = life.now_s, len(life.lookups)
    life.until(asked_at_s)
    assert len(life.lookups) == before + 1


ERRORS = [
    StoreUnknown("unknown"),
    StoreTombstone("removed"),
    Unreachable("down"),
    Timeout("silent"),
    CoordinationUnknown("?"),
    SteleError("from the future", reason="NEW"),
]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.floats(0, 30)), max_size=60), st.integers(0, 2**32))
def test_any_sequence_of_events_keeps_the_invariants(events: list[tuple[int, int, float]], seed: int) -> None:
    rng = random.Random(seed)
    life = Life(ResolverPolicy, lambda *_: rng.choice([HERE, THERE, *ERRORS]), seed)
    for kind, store_id, pause_s in events:
        removed = life.policy.is_tombstone(store_id)
        if kind <= 1:
            life.want(store_id)
        elif kind == 2:
            life.mismatch(HERE, store_id)
        elif not life._due:
            life.policy.abandoned(store_id)
        life.until(life.now_s + pause_s)
        life.policy.validate()
        assert not removed or life.policy.is_tombstone(store_id), "removed is for good"
