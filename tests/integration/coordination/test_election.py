"""One leader at a time, as far as ZooKeeper will write."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from stele.local.zookeeper import ZooKeeperServer
from stele.services.coordination import election as elections
from stele.services.coordination.election import Election, Leadership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import CounterRecord
from stele.services.coordination.schema import EPOCH
from stele.services.coordination.session import Session, SessionState
from stele.services.coordination.znode import Node
from stele.services.errors import LeadershipLost
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions, end_session, open_session


async def candidate(session: Session, name: str) -> Election:
    election = Election(session, name, f"{name}:1")
    await election.campaign()
    return election


async def test_the_first_leads_and_the_rest_follow(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    elections = [await candidate(await cluster.open(), name) for name in ("ns1", "ns2", "ns3")]
    leadership = await asyncio.wait_for(elections[0].elected(), timeout=5)
    assert leadership.epoch == 1
    assert leadership.is_valid
    for election in elections:
        await eventually(lambda election=election: (leader := election.current_leader()) and leader.name == "ns1")
    await elections[0].resign()
    assert not leadership.is_valid
    second = await asyncio.wait_for(elections[1].elected(), timeout=5)
    assert second.epoch == 2
    assert elections[2].leadership is None
    assert (await elections[2].ask_leader()) == second.record
    for election in elections[1:]:
        await election.resign()
    assert await MetadataStore(elections[0]._session).children("election") == []


async def test_an_expired_leader_is_followed_and_comes_back_as_the_last(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    first, second = await cluster.open(), await cluster.open()
    ns1 = await candidate(first, "ns1")
    leadership = await asyncio.wait_for(ns1.elected(), timeout=5)
    ns2 = await candidate(second, "ns2")
    await eventually(lambda: ns2.current_leader())
    told: list[Leadership | None] = []
    ns1.subscribe_leadership(told.append)
    await end_session(first)
    assert (await asyncio.wait_for(ns2.elected(), timeout=5)).epoch == 2
    await eventually(lambda: told == [None])
    assert leadership.is_lost
    assert ns1.leadership is None
    await eventually(lambda: (leader := ns1.current_leader()) and leader.name == "ns2")
    await ns2.resign()
    assert (await asyncio.wait_for(ns1.elected(), timeout=5)).epoch == 3


async def test_what_was_decided_under_an_earlier_session_elects_nobody(
    sessions: Callable[[], Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first candidate sees that it is to lead; before it says so its session ends, and another one leads."""

    async def scenario(election_type: type[Election]) -> None:
        cluster = sessions()
        first, second = await cluster.open(), await cluster.open()
        deciding, go_on, get = asyncio.Event(), asyncio.Event(), first.get

        async def held(path: str, **options: Any) -> Node | None:
            found = await get(path, **options)
            if path == EPOCH and not deciding.is_set():
                deciding.set()
                await go_on.wait()
            return found

        monkeypatch.setattr(first, "get", held)
        ns1 = election_type(first, "ns1", "ns1:1")
        await ns1.campaign()
        await asyncio.wait_for(deciding.wait(), timeout=5)
        ns2, before = await candidate(second, "ns2"), first.session_id
        await end_session(first)
        leadership = await asyncio.wait_for(ns2.elected(), timeout=5)
        await eventually(lambda: first.state == SessionState.CONNECTED and first.session_id != before)
        go_on.set()
        await eventually(lambda: (leader := ns1.current_leader()) and leader.name == "ns2")
        with promise("who leads is not overtaken by who decided before"):
            assert ns1.leadership is None
            assert not leadership.is_lost
        await ns2.resign()
        assert (await asyncio.wait_for(ns1.elected(), timeout=5)).epoch == leadership.epoch + 1
        await ns1.resign()

    await holds_and_mutant_fails(scenario, Election, "ownership.LeadsByWhatItDecidedBefore")


async def test_a_paused_leader_is_refused_by_zookeeper(
    sessions: Callable[[], Sessions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still (here: its connection does) while its session runs out and its successor writes.  When it wakes up it still
    believes to lead, and its write goes out first of all."""

    async def scenario(leadership_type: type[Leadership]) -> None:
        monkeypatch.setattr(elections, "Leadership", leadership_type)
        cluster = sessions()
        proxy = await cluster.proxy()
        paused_session, other = await cluster.open(proxy.hosts, timeout_s=1.0), await cluster.open()
        paused = await (await candidate(paused_session, "ns1")).elected()
        await paused.transaction().create("stores/alloc", CounterRecord(next=1)).commit()
        ns2 = await candidate(other, "ns2")
        proxy.cut()
        successor = await asyncio.wait_for(ns2.elected(), timeout=10)
        await successor.transaction().set("stores/alloc", CounterRecord(next=2), 0).commit()
        # The belief of the paused one, carried by a session that works: exactly what ZooKeeper would be sent by a process that woke up.
        belief = leadership_type(other, paused.record, paused.epoch_version, other.session_id)
        with promise("a deposed leader's transactions are refused"), pytest.raises(LeadershipLost):
            await belief.transaction().set("stores/alloc", CounterRecord(next=99), 1).commit()
        found = await MetadataStore(other).get("stores/alloc", CounterRecord)
        assert found is not None
        assert found.record.next == 2
        await ns2.resign()

    await holds_and_mutant_fails(scenario, Leadership, "ownership.LeadershipWithoutEpoch")


async def test_a_leader_that_lost_its_epoch_knows_it_and_campaigns_again(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    session, meddler = await cluster.open(), await cluster.open()
    ns1 = await candidate(session, "ns1")
    leadership = await asyncio.wait_for(ns1.elected(), timeout=5)
    node = await meddler.get("epoch")
    assert node is not None
    await meddler.set("epoch", b'{"format": 1, "epoch": 41}', node.stat.version)
    with pytest.raises(LeadershipLost):
        await leadership.transaction().create("stores/alloc", CounterRecord(next=1)).commit()
    assert not leadership.is_valid
    again = await asyncio.wait_for(ns1.elected(), timeout=5)
    assert again.epoch == 42
    await again.transaction().create("stores/alloc", CounterRecord(next=1)).commit()


async def test_a_lost_answer_leaves_one_candidate(sessions: Callable[[], Sessions]) -> None:
    """The candidacy is created and its answer lost: a second one of the same process would wait for the first for ever."""
    cluster = sessions()
    observer, proxy = await cluster.open(), await cluster.proxy()
    session = await cluster.open(proxy.hosts)
    create, loop = session.create, asyncio.get_running_loop()

    async def spoiled(*args: object, **kwargs: object) -> str:
        session.create = create  # type: ignore[method-assign]
        proxy.drop_answers()
        loop.call_later(0.2, proxy.restore)
        return await create(*args, **kwargs)  # type: ignore[arg-type]

    session.create = spoiled  # type: ignore[method-assign, assignment]
    ns1 = await candidate(session, "ns1")
    await asyncio.wait_for(ns1.elected(), timeout=10)
    assert len(await MetadataStore(observer).children("election")) == 1


async def test_leadership_survives_a_restart_of_zookeeper(own_zookeeper: ZooKeeperServer, cluster_name: str) -> None:
    async with (
        open_session(own_zookeeper.hosts, cluster_name, 4.0) as first,
        open_session(own_zookeeper.hosts, cluster_name, 4.0) as second,
    ):
        ns1 = await candidate(first, "ns1")
        leadership = await asyncio.wait_for(ns1.elected(), timeout=5)
        ns2 = await candidate(second, "ns2")
        await eventually(lambda: ns2.current_leader())
        own_zookeeper.kill(signal.SIGKILL)
        await eventually(lambda: not leadership.is_valid, within_s=10)
        await own_zookeeper.async_start()
        await eventually(lambda: leadership.is_valid, within_s=10)
        await leadership.transaction().create("stores/alloc", CounterRecord(next=1)).commit()
        assert ns2.leadership is None
        assert (leader := ns2.current_leader()) is not None
        assert leader.epoch == 1
