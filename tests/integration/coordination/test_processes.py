"""Real processes, really killed and really paused."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from stele.services.coordination.election import Election, Leadership
from stele.services.coordination.members import Membership, live
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.names import NameHold
from stele.services.coordination.records import CounterRecord, NameRecord
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import SESSION_TIMEOUT_S, Sessions, end_session

# The server looks for expired sessions once a tick, and may itself be slow on a busy machine.
EXPIRED_WITHIN_S = SESSION_TIMEOUT_S + 3.0
OUTLIVES_THE_TEST = ("--timeout", "30")


class Child:
    """A run of ``process.py``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def heard(self, event: str, within_s: float = 20.0) -> dict[str, object]:
        """The next thing it says, which must be ``event``."""
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), within_s)
        assert line, f"it ended before it said {event}"
        said: dict[str, object] = json.loads(line)
        assert said["event"] == event, said
        return said

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def child(cluster: Sessions, name: str, endpoint: str, *options: str, **classes: type) -> AsyncIterator[Child]:
    arguments = [
        "--hosts",
        cluster.hosts,
        "--cluster",
        cluster.cluster,
        "--name",
        name,
        "--endpoint",
        endpoint,
        *options,
    ]
    for option, given in classes.items():
        arguments += [f"--{option}", f"{given.__module__}:{given.__name__}"]
    started = Child(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.coordination.process",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    )
    try:
        yield started
    finally:
        await started.kill()


async def test_r1_9_a_killed_process_starts_again_at_another_port(sessions: Callable[[], Sessions]) -> None:
    async def scenario(hold: type[NameHold]) -> None:
        cluster = sessions()
        observer = await cluster.open()
        async with child(cluster, "ns1", "a:1", *OUTLIVES_THE_TEST, hold=hold) as first:
            await first.heard("registered")
            await first.kill()
            assert await observer.exists("names/ns1/live") is not None  # its session is still open
            async with child(cluster, "ns1", "a:2", hold=hold) as second:
                with promise("a restarted process gets its own name back"):
                    session = (await second.heard("registered"))["session"]
                found = await MetadataStore(observer).get("names/ns1", NameRecord)
                assert found is not None
                assert (found.record.endpoint, found.record.session) == ("a:2", session)

    await holds_and_mutant_fails(scenario, NameHold, "names.OwnPastIsAStranger")


async def test_r5_4_a_restarted_process_keeps_its_node_when_the_old_session_ends(
    sessions: Callable[[], Sessions],
) -> None:
    async def scenario(member: type[Membership]) -> None:
        cluster = sessions()
        observer = await cluster.open()
        async with child(cluster, "ns1", "a:1", *OUTLIVES_THE_TEST, member=member) as first:
            old = await first.heard("registered")
            await first.kill()
            async with child(cluster, "ns1", "a:2", member=member) as second:
                new = await second.heard("registered")
                before = await observer.exists("members/nameservers/ns1")
                assert before is not None
                old_session = (int(str(old["session"])), bytes.fromhex(str(old["password"])))
                await end_session(observer, cluster.hosts, old_session)
                await observer.sync()
                after = await observer.exists("members/nameservers/ns1")
                with promise("a restarted process is registered again at once, under its new session"):
                    assert after is not None
                    assert after.czxid == before.czxid
                    assert after.ephemeral_owner == new["session"]

    await holds_and_mutant_fails(scenario, Membership, "members.AdoptsThePreviousSession")


async def test_r5_5_a_second_process_of_the_name_is_refused(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    async with child(cluster, "ns1", "a:1") as first, child(cluster, "ns1", "a:2") as second:
        outcomes = [
            json.loads(await asyncio.wait_for(one.process.stdout.readline(), 20))  # type: ignore[union-attr]
            for one in (first, second)
        ]
        assert sorted(outcome["event"] for outcome in outcomes) == ["refused", "registered"]
        refused = next(outcome for outcome in outcomes if outcome["event"] == "refused")
        assert refused["reason"] == "NAME_TAKEN"


async def test_r5_9_a_killed_member_is_gone_within_the_session_timeout(sessions: Callable[[], Sessions]) -> None:
    async def scenario(member: type[Membership]) -> None:
        cluster = sessions()
        observer = await cluster.open()
        async with child(cluster, "ns1", "a:1", member=member) as killed:
            await killed.heard("registered")
            await killed.kill()

            async def gone() -> bool:
                return await observer.exists("members/nameservers/ns1") is None

            with promise("a killed process is gone within its session timeout"):
                await eventually(gone, within_s=EXPIRED_WITHIN_S)
            assert await live(observer, "nameservers") == {}

    await holds_and_mutant_fails(scenario, Membership, "members.RegistersForGood")


async def test_a_paused_leader_wakes_up_after_its_successor_wrote(sessions: Callable[[], Sessions]) -> None:
    """The order to write is waiting when it wakes up, before it has heard that its session is over."""

    async def scenario(leadership: type[Leadership]) -> None:
        cluster = sessions()
        other = await cluster.open()
        await MetadataStore(other).create("stores/alloc", CounterRecord(next=1))
        async with child(cluster, "ns1", "a:1", "--campaign", leadership=leadership) as paused:
            await paused.heard("registered")
            await paused.heard("elected")
            paused.tell("write 2")
            assert (await paused.heard("written"))["outcome"] == "accepted"
            ns2 = Election(other, "ns2", "b:1")
            await ns2.campaign()
            paused.process.send_signal(signal.SIGSTOP)
            successor = await asyncio.wait_for(ns2.elected(), timeout=10)
            await successor.transaction().set("stores/alloc", CounterRecord(next=3), 1).commit()
            paused.tell("write 99")
            paused.process.send_signal(signal.SIGCONT)
            with promise("a deposed leader's transactions are refused"):
                assert (await paused.heard("written"))["outcome"] == "LEADERSHIP_LOST"
            found = await MetadataStore(other).get("stores/alloc", CounterRecord)
            assert found is not None
            assert found.record.next == 3
            await ns2.resign()

    await holds_and_mutant_fails(scenario, Leadership, "ownership.LeadershipWithoutEpoch")
