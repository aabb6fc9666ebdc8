"""R1.8: whoever is found in ZooKeeper can be dialled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stele.services.coordination.election import Election
from stele.services.coordination.enrolment import Enrolment, Step
from stele.services.coordination.members import Membership
from stele.services.coordination.mirror import Mirror
from stele.services.coordination.names import NameHold
from stele.services.coordination.records import LeaderRecord, MemberRecord
from stele.services.errors import NameTaken
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions


class Process:
    """A nameserver's way into the cluster, with a real port."""

    def __init__(self, cluster: Sessions, kind: type[Enrolment]) -> None:
        self.cluster = cluster
        self.kind = kind
        self.endpoint = ""
        self._server: asyncio.Server | None = None

    async def prepare(self, name: str) -> Enrolment:
        session = await self.cluster.open()
        reserved = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        port = reserved.sockets[0].getsockname()[1]
        reserved.close()
        await reserved.wait_closed()
        self.endpoint = f"127.0.0.1:{port}"
        hold = NameHold(session, name, self.endpoint)
        member = Membership(session, "nameservers", name, MemberRecord(endpoint=self.endpoint))
        election = Election(session, name, self.endpoint)

        async def open_port() -> None:
            self._server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", port)

        async def close_port() -> None:
            assert self._server is not None
            self._server.close()

        async def campaign() -> None:
            await election.campaign()
            await election.elected()

        return self.kind(
            port=Step(open_port, close_port),
            name=Step(hold.register, hold.release),
            member=Step(member.register, member.unregister),
            campaign=Step(campaign, election.resign),
        )

    @property
    def is_listening(self) -> bool:
        return self._server is not None and self._server.is_serving()


async def dial(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


async def test_r1_8_a_leader_that_is_found_can_be_dialled(sessions: Callable[[], Sessions]) -> None:
    async def scenario(kind: type[Enrolment]) -> None:
        cluster = sessions()
        observer = Election(await cluster.open(), "observer", "")
        found: list[asyncio.Task[bool]] = []

        def on_leader(leader: LeaderRecord | None) -> None:
            if leader is not None:
                found.append(asyncio.create_task(dial(leader.endpoint)))

        observer.subscribe(on_leader)
        await observer.observe()
        enrolment = await Process(cluster, kind).prepare("ns1")
        # If there is a leader record before the port opens, the port opens only after the observer has dialled.
        enrolment.port = Step(after(observer, found, enrolment.port.do), enrolment.port.undo)
        await enrolment.join()
        await eventually(lambda: found)
        with promise("whoever is found can be dialled"):
            assert await found[0], "the leader's port was closed"
        await enrolment.leave()

    def after(observer: Election, found: list[asyncio.Task[bool]], do: Callable[[], object]):  # type: ignore[no-untyped-def]
        async def delayed() -> None:
            if await observer.ask_leader() is not None:
                await eventually(lambda: found and found[0].done())
            await do()  # type: ignore[misc]

        return delayed

    await holds_and_mutant_fails(scenario, Enrolment, "names.CampaignsFirst")


@pytest.mark.parametrize("mutant", ["names.TakesItsNameFirst", "names.ShowsItselfNameless", "names.CampaignsUnseen"])
async def test_r1_8_a_member_that_is_found_has_its_name(sessions: Callable[[], Sessions], mutant: str) -> None:
    async def scenario(kind: type[Enrolment]) -> None:
        cluster = sessions()
        observer = await cluster.open()
        process = Process(cluster, kind)
        enrolment = await process.prepare("ns1")

        async def look() -> None:
            named = await observer.exists("names/ns1/live")
            member = await observer.exists("members/nameservers/ns1")
            with promise("a member has its name"):
                assert named or not member
            with promise("whoever is found can be dialled"):
                assert not named or await dial(process.endpoint)
            with promise("a leader is a member"):
                assert member or not await observer.exists("leader")

        for name in ("port", "name", "member", "campaign"):
            step: Step = getattr(enrolment, name)

            async def watched(step: Step = step) -> None:
                await look()
                await step.do()

            setattr(enrolment, name, Step(watched, step.undo))
        await enrolment.join()
        await look()
        await enrolment.leave()

    await holds_and_mutant_fails(scenario, Enrolment, mutant)


async def test_a_refused_name_leaves_nothing_behind(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    first, second = Process(cluster, Enrolment), Process(cluster, Enrolment)
    winner = await first.prepare("ns1")
    await winner.join()
    loser = await second.prepare("ns1")
    with pytest.raises(NameTaken):
        await loser.join()
    assert not second.is_listening
    assert first.is_listening
    mirror = Mirror(await cluster.open(), "members", depth=2)
    await mirror.start()
    assert mirror.children("members/nameservers") == ["ns1"]
    await winner.leave()
    await eventually(lambda: mirror.children("members/nameservers") == [])
    await mirror.stop()
    assert not first.is_listening
