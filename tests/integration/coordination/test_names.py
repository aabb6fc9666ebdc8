"""F1: a logical name has at most one live process, and its own process never loses it to itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stele.services.coordination import incarnation
from stele.services.coordination.claim import Decision, Seen
from stele.services.coordination.election import Election
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.names import NameHold, register_name
from stele.services.coordination.records import Incarnation, NameRecord
from stele.services.coordination.session import Session
from stele.services.errors import CoordinationUnknown, NameTaken
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions

Hold = type[NameHold]


async def record_of(session: Session, name: str) -> NameRecord:
    found = await MetadataStore(session).get(f"names/{name}", NameRecord)
    assert found is not None
    return found.record


async def test_r1_1_unknown_changes_nothing(sessions: Callable[[], Sessions]) -> None:
    async def scenario(hold: Hold) -> None:
        cluster = sessions()
        owner = await cluster.open()
        await register_name(owner, "ns1", "a:1")
        proxy = await cluster.proxy()
        late = await cluster.open(proxy.hosts, request_timeout_s=0.3)
        proxy.cut()
        attempt = asyncio.create_task(hold(late, "ns1", "b:1").register())
        await asyncio.wait({attempt}, timeout=0.7)
        proxy.restore()
        error = await asyncio.wait_for(asyncio.gather(attempt, return_exceptions=True), timeout=10)
        with promise("a name of which nothing is known is left alone"):
            assert (await record_of(owner, "ns1")).endpoint == "a:1"
            assert isinstance(error[0], CoordinationUnknown)

    await holds_and_mutant_fails(scenario, NameHold, "names.UnknownIsAbsent")


async def test_r1_2_an_absent_name_is_not_compared(sessions: Callable[[], Sessions]) -> None:
    async def scenario(hold: Hold) -> None:
        session = await sessions().open()
        election = Election(session, "ns1", "a:1")
        await election.campaign()
        await election.elected()
        with promise("a process that campaigns already gets a name that nobody holds"):
            await hold(session, "ns1", "a:1").register()
        assert (await record_of(session, "ns1")).endpoint == "a:1"
        await election.resign()

    await holds_and_mutant_fails(scenario, NameHold, "names.AbsentIsDifferent")


async def test_r1_3_a_lost_race_is_decided_anew(sessions: Callable[[], Sessions]) -> None:
    async def scenario(hold: Hold) -> None:
        session = await sessions().open()

        class Overtaken(hold):  # type: ignore[valid-type, misc]
            """The same process's other attempt is faster, just before the first write."""

            overtaken = False

            async def write(self, decision: Decision, seen: Seen[NameRecord], mine: NameRecord) -> None:
                if not self.overtaken:
                    self.overtaken = True
                    await NameHold(session, "ns1", "a:1").settle()
                await super().write(decision, seen, mine)

        with promise("a lost race for a name is decided anew"):
            await Overtaken(session, "ns1", "a:1").register()
        assert (await record_of(session, "ns1")).session == session.session_id

    await holds_and_mutant_fails(scenario, NameHold, "names.LostRaceIsAnError")


async def test_r1_4_the_same_endpoint_succeeds_again(sessions: Callable[[], Sessions]) -> None:
    async def scenario(hold: Hold) -> None:
        cluster = sessions()
        first = await cluster.open()
        again = await cluster.open()
        with promise("who holds a name gets it again at the same endpoint"):
            await hold(first, "ns1", "a:1").register()  # looks at what it wrote before it returns
            before = await record_of(first, "ns1")
            await hold(first, "ns1", "a:1").register()
            assert await record_of(first, "ns1") == before
            # A restart at the same address, while the session of the run before is still open.
            await hold(again, "ns1", "a:1").register()
        assert (await record_of(again, "ns1")).session == again.session_id

    await holds_and_mutant_fails(scenario, NameHold, "names.PresentIsTaken")


async def test_r1_5_a_live_owner_keeps_its_name(sessions: Callable[[], Sessions]) -> None:
    async def scenario(hold: Hold) -> None:
        cluster = sessions()
        owner, late = await cluster.open(), await cluster.open()
        await hold(owner, "ns1", "a:1").register()
        with promise("a name is never taken from a live process"), pytest.raises(NameTaken) as refused:
            await hold(late, "ns1", "b:1").register()
        assert refused.value.facts == {"name": "ns1", "endpoint": "a:1", "session": f"{owner.session_id:#x}"}
        assert (await record_of(owner, "ns1")).endpoint == "a:1"

    await holds_and_mutant_fails(scenario, NameHold, "names.TakesFromTheLive")


async def test_r1_5_an_owner_on_another_machine_is_waited_for_and_then_respected(
    sessions: Callable[[], Sessions],
) -> None:
    cluster = sessions()
    owner, _ = await cluster.cut_off()
    await register_name(owner, "ns1", "a:1")
    late = await cluster.open(timeout_s=1.0)
    with pytest.raises(NameTaken):
        await register_name(late, "ns1", "b:1")
    assert (await record_of(late, "ns1")).endpoint == "a:1"


@pytest.mark.parametrize("mutant", ["names.TakesOverBlindly", "names.NeverTakesOver"])
async def test_r1_6_takes_over_a_dead_owner_once(sessions: Callable[[], Sessions], mutant: str) -> None:
    async def scenario(hold: Hold) -> None:
        cluster = sessions()
        owner = await cluster.open()
        await register_name(owner, "ns1", "a:1")
        await owner.close()
        both_have_read = asyncio.Barrier(2)

        class Racing(hold):  # type: ignore[valid-type, misc]
            raced = False

            async def write(self, decision: Decision, seen: Seen[NameRecord], mine: NameRecord) -> None:
                if not self.raced:
                    self.raced = True
                    async with asyncio.timeout(5):
                        await both_have_read.wait()
                await super().write(decision, seen, mine)

        claims = [Racing(await cluster.open(), "ns1", endpoint) for endpoint in ("b:1", "c:1")]
        outcomes = await asyncio.gather(*(claim.register() for claim in claims), return_exceptions=True)
        winners = [claim for claim, outcome in zip(claims, outcomes, strict=True) if outcome is None]
        with promise("of those that take a dead owner's name over one wins"):
            assert len(winners) == 1
            assert sum(isinstance(outcome, NameTaken) for outcome in outcomes) == 1
        assert (await record_of(winners[0]._session, "ns1")).endpoint == winners[0].endpoint

    await holds_and_mutant_fails(scenario, NameHold, mutant)


async def test_r1_7_one_of_fifty_wins(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    racers = await asyncio.gather(*(cluster.open(timeout_s=10.0) for _ in range(50)))

    async def race(hold: Hold, name: str) -> None:
        claims = [hold(session, name, f"host{i}:1") for i, session in enumerate(racers)]
        outcomes = await asyncio.gather(*(claim.settle() for claim in claims), return_exceptions=True)
        winners = [claim.endpoint for claim, outcome in zip(claims, outcomes, strict=True) if outcome is None]
        losers = [outcome for outcome in outcomes if isinstance(outcome, NameTaken)]
        with promise("of many that race for a name exactly one wins"):
            assert len(winners) == 1, (winners, outcomes)
        assert len(losers) == 49
        assert (await record_of(racers[0], name)).endpoint == winners[0]

    async def scenario(hold: Hold) -> None:
        for repetition in range(8):
            await race(hold, f"{hold.__name__.lower()}-{repetition}")

    await holds_and_mutant_fails(scenario, NameHold, "names.ChecksThenWrites")


async def test_r1_7_one_of_many_wins_when_the_owner_has_died(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    racers = await asyncio.gather(*(cluster.open(timeout_s=10.0) for _ in range(20)))
    for repetition in range(5):
        name = f"ns{repetition}"
        dead = await cluster.open()
        await register_name(dead, name, "dead:1")
        await dead.close()
        outcomes = await asyncio.gather(
            *(NameHold(session, name, f"host{i}:1").settle() for i, session in enumerate(racers)),
            return_exceptions=True,
        )
        assert outcomes.count(None) == 1


async def test_r1_9_meets_its_own_past(sessions: Callable[[], Sessions]) -> None:
    """The run before was killed; its session is still open at the server, and its port was another one."""

    async def scenario(hold: Hold) -> None:
        cluster = sessions()
        me = incarnation.current()
        killed = Incarnation(instance="killed", machine=me.machine, pid=me.pid, pid_started=me.pid_started + 1)
        before = await cluster.open(incarnation=killed)
        await hold(before, "ns1", "a:1").settle()
        after = await cluster.open(incarnation=me)
        with promise("a restarted process gets its own name back"):
            await hold(after, "ns1", "a:2").register()
        assert (await record_of(after, "ns1")).endpoint == "a:2"

    await holds_and_mutant_fails(scenario, NameHold, "names.OwnPastIsAStranger")


async def test_r1_9_waits_where_nothing_is_proven(sessions: Callable[[], Sessions]) -> None:
    async def scenario(hold: Hold) -> None:
        cluster = sessions()
        before, vanish = await cluster.cut_off()
        await hold(before, "ns1", "a:1").settle()
        vanish()
        after = await cluster.open()
        with promise("a restarted process gets its own name back"):
            await hold(after, "ns1", "a:2").register()
        assert (await record_of(after, "ns1")).session == after.session_id

    await holds_and_mutant_fails(scenario, NameHold, "names.OwnPastIsAStranger")


async def test_a_locked_identity_proves_the_past(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    elsewhere = Incarnation(instance="1", machine="another machine", identity="uuid of the data directory")
    here = Incarnation(instance="2", machine="this machine", identity="uuid of the data directory")
    await NameHold(await cluster.open(incarnation=elsewhere), "dn1", "a:1").settle()
    await NameHold(await cluster.open(incarnation=here), "dn1", "a:2").settle()


async def test_a_name_taken_while_cut_off_is_reported(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    proxy = await cluster.proxy()
    cut_off = await cluster.open(proxy.hosts, timeout_s=1.0)
    reported: list[Exception] = []
    await register_name(cut_off, "ns1", "a:1", on_taken=reported.append)
    proxy.cut()
    successor = await cluster.open()
    await eventually(lambda: guard_is_gone(successor, "ns1"), within_s=10)
    await register_name(successor, "ns1", "b:1")
    proxy.restore()
    await eventually(lambda: reported, within_s=10)
    assert isinstance(reported[0], NameTaken)
    assert (await record_of(successor, "ns1")).endpoint == "b:1"


async def guard_is_gone(session: Session, name: str) -> bool:
    return await session.exists(f"names/{name}/live") is None


async def test_a_released_name_is_free_at_once(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    first, second = await cluster.open(), await cluster.open()
    hold = await register_name(first, "br1", "a:1")
    await hold.release()
    await register_name(second, "br1", "b:1")
    await hold.release()
    assert not await guard_is_gone(second, "br1")


async def test_p25_a_persistent_guard_is_no_sign_of_life(sessions: Callable[[], Sessions]) -> None:
    """Left by somebody with zkCli, or by another version: the name is taken all the same, by this process and after another."""
    cluster = sessions()
    session, other = await cluster.open(), await cluster.open(incarnation=Incarnation(instance="x", machine="y"))
    await (await register_name(other, "ns1", "b:1")).release()
    await session.create("names/ns1/live", b"")
    await register_name(session, "ns1", "a:1")
    guard = await session.exists("names/ns1/live")
    assert guard is not None
    assert guard.ephemeral_owner == session.session_id
