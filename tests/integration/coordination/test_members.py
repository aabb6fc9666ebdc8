"""F5: a member node is this session's own, comes back while its process lives, and goes when it dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stele.services.coordination.claim import Decision
from stele.services.coordination.members import Membership, live, live_in
from stele.services.coordination.mirror import Mirror
from stele.services.coordination.names import NameHold, register_name
from stele.services.coordination.records import Incarnation, MemberRecord, decode, encode
from stele.services.coordination.session import Session
from stele.services.coordination.znode import Op
from stele.services.errors import NameTaken, SteleError
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions, end_session

Member = type[Membership]
PATH = "members/brokers/br1"
ELSEWHERE = Incarnation(instance="elsewhere", machine="another machine")


def member(kind: Member, session: Session, endpoint: str = "a:1") -> Membership:
    return kind(session, "brokers", "br1", MemberRecord(endpoint=endpoint))


async def owner_of_node(session: Session) -> int | None:
    """Session that owns the member node; 0 if persistent, None if there is none."""
    stat = await session.exists(PATH)
    return None if stat is None else stat.ephemeral_owner


async def is_ours(session: Session) -> bool:
    return await owner_of_node(session) == session.session_id


async def test_r5_2_reads_back_what_became_of_the_write(sessions: Callable[[], Sessions]) -> None:
    async def scenario(kind: Member) -> None:
        cluster = sessions()
        session, old_version = await cluster.open(), await cluster.open()
        node = member(kind, session)
        read, meddled = node.read, False

        async def read_then_be_overtaken():  # type: ignore[no-untyped-def]
            nonlocal meddled
            seen = await read()
            if not meddled:
                meddled = True
                await old_version.create(PATH, encode(MemberRecord(endpoint="a:1")))
            return seen

        node.read = read_then_be_overtaken  # type: ignore[method-assign]
        await node.register()
        with promise("the member node is of the session that registered"):
            assert await is_ours(session)

    await holds_and_mutant_fails(scenario, Membership, "members.TrustsTheWrite")


async def test_r5_3_replaces_a_persistent_leftover(sessions: Callable[[], Sessions]) -> None:
    async def scenario(kind: Member) -> None:
        cluster = sessions()
        session, observer = await cluster.open(), await cluster.open()
        await observer.create(PATH, encode(MemberRecord(endpoint="old:1")))
        await member(kind, session).register()
        with promise("a persistent leftover is replaced"):
            assert await is_ours(session)
        await session.close()
        assert await owner_of_node(observer) is None

    await holds_and_mutant_fails(scenario, Membership, "members.AdoptsALeftover")


async def test_r5_3_a_leftover_that_cannot_be_read_is_replaced_too(sessions: Callable[[], Sessions]) -> None:
    session = await sessions().open()
    await session.create(PATH, b"not a record")
    await member(Membership, session).register()
    assert await is_ours(session)


@pytest.mark.parametrize("mutant", ["members.AdoptsThePreviousSession", "members.OwnNodeIsAStranger"])
async def test_r5_4_replaces_the_node_of_its_previous_session(sessions: Callable[[], Sessions], mutant: str) -> None:
    async def scenario(kind: Member) -> None:
        cluster = sessions()
        observer = await cluster.open()
        before = await cluster.open()
        await member(Membership, before).settle()
        after = await cluster.open(incarnation=before.incarnation)
        with promise("a restarted process is registered again at once, under its new session"):
            await member(kind, after, endpoint="a:2").register()
            assert await is_ours(after)
        await before.close()
        assert await owner_of_node(observer) == after.session_id

    await holds_and_mutant_fails(scenario, Membership, mutant)


async def test_r5_5_the_node_of_another_live_process_is_left_alone(sessions: Callable[[], Sessions]) -> None:
    async def scenario(kind: Member) -> None:
        cluster = sessions()
        first, second = await cluster.open(), await cluster.open()
        await member(Membership, first, "a:1").register()
        with promise("a live process keeps its member node"), pytest.raises(NameTaken) as refused:
            await member(kind, second, "b:1").register()
        assert refused.value.facts["endpoint"] == "a:1"
        assert await owner_of_node(second) == first.session_id

    await holds_and_mutant_fails(scenario, Membership, "members.OverwritesTheLive")


async def test_r5_5_a_process_that_has_lost_its_name_writes_nothing(sessions: Callable[[], Sessions]) -> None:
    """It was cut off for longer than its session, and finds its successor in place."""
    cluster = sessions()
    proxy = await cluster.proxy()
    cut_off = await cluster.open(proxy.hosts, timeout_s=1.0)
    taken: list[SteleError] = []
    await register_name(cut_off, "br1", "a:1")
    deposed = Membership(cut_off, "brokers", "br1", MemberRecord(endpoint="a:1"), on_taken=taken.append)
    await deposed.register()
    proxy.cut()
    successor = await cluster.open()

    async def gone() -> bool:
        return await owner_of_node(successor) is None

    await eventually(gone)
    await register_name(successor, "br1", "b:1")
    await member(Membership, successor, "b:1").register()
    proxy.restore()
    await eventually(lambda: taken)
    assert await is_ours(successor)


@pytest.mark.parametrize("mutant", ["members.AssumesSuccess", "members.AssumesFailure"])
async def test_r5_6_a_lost_answer_is_settled_by_reading(sessions: Callable[[], Sessions], mutant: str) -> None:
    async def answer_lost(kind: Member) -> None:
        """The create arrives and takes effect; its answer does not."""
        cluster = sessions()
        observer, proxy = await cluster.open(), await cluster.proxy()
        session = await cluster.open(proxy.hosts)
        node, started = member(kind, session), asyncio.Event()
        spoil_next_write(session, lambda: (proxy.drop_answers(), started.set()))
        registering = asyncio.create_task(node.register())
        await asyncio.wait_for(started.wait(), timeout=5)

        async def written() -> bool:
            return await owner_of_node(observer) is not None

        await eventually(written)
        before = await observer.exists(PATH)
        proxy.restore()
        with promise("a create whose answer was lost is settled by reading"):
            await asyncio.wait_for(registering, timeout=10)
        assert await is_ours(session)
        after = await observer.exists(PATH)
        assert before is not None
        assert after is not None
        assert after.czxid == before.czxid

    async def request_lost(kind: Member) -> None:
        """The create is sent and never arrives."""
        cluster = sessions()
        observer, proxy = await cluster.open(), await cluster.proxy()
        session = await cluster.open(proxy.hosts)
        spoil_next_write(
            session, lambda: (proxy.drop_requests(), asyncio.get_running_loop().call_later(0.3, proxy.restore))
        )
        with promise("a create whose answer was lost is settled by reading"):
            await asyncio.wait_for(member(kind, session).register(), timeout=10)
            assert await owner_of_node(observer) == session.session_id

    async def scenario(kind: Member) -> None:
        await answer_lost(kind)
        await request_lost(kind)

    await holds_and_mutant_fails(scenario, Membership, mutant)


def spoil_next_write(session: Session, spoil: Callable[[], object]) -> None:
    """Runs ``spoil`` just before the session's next create or transaction is sent."""
    create, commit = session.create, session.commit

    def restore() -> None:
        session.create, session.commit = create, commit  # type: ignore[method-assign]
        spoil()

    async def spoiled_create(*args: object, **kwargs: object) -> str:
        restore()
        return await create(*args, **kwargs)  # type: ignore[arg-type]

    async def spoiled_commit(ops: list[Op], **kwargs: object) -> list[object]:
        restore()
        return await commit(ops, **kwargs)  # type: ignore[arg-type]

    session.create, session.commit = spoiled_create, spoiled_commit  # type: ignore[method-assign, assignment]


async def test_r5_7_is_back_after_the_session_was_lost(sessions: Callable[[], Sessions]) -> None:
    async def scenario(kind: Member) -> None:
        cluster = sessions()
        session, observer = await cluster.open(), await cluster.open()
        node = member(kind, session)
        await node.register()
        first = session.session_id
        await end_session(session)
        await eventually(lambda: session.session_id != first, within_s=5)

        async def back() -> bool:
            return await owner_of_node(observer) == session.session_id

        with promise("a live process is registered again when its node is gone"):
            await eventually(back, within_s=1.0)  # the rule's own bound, from the new session on
        await node.unregister()

    await holds_and_mutant_fails(scenario, Membership, "members.RegistersOnce")


async def test_r5_7_is_back_after_somebody_deleted_it(sessions: Callable[[], Sessions]) -> None:
    async def scenario(kind: Member) -> None:
        cluster = sessions()
        session, observer = await cluster.open(), await cluster.open()
        node = member(kind, session)
        await node.register()
        for _ in range(3):
            await observer.delete(PATH)

            async def back() -> bool:
                return await owner_of_node(observer) == session.session_id

            with promise("a live process is registered again when its node is gone"):
                await eventually(back, within_s=2.0)
        await node.unregister()

    await holds_and_mutant_fails(scenario, Membership, "members.RegistersOnce")


async def test_r5_7_stays_away_once_unregistered(sessions: Callable[[], Sessions]) -> None:
    async def scenario(kind: Member) -> None:
        cluster = sessions()
        session, observer = await cluster.open(), await cluster.open()
        node = member(kind, session)
        await node.register()
        await node.unregister()

        async def back() -> bool:
            return await owner_of_node(observer) is not None

        with promise("who unregistered stays away"), pytest.raises(AssertionError, match="not within"):
            await eventually(back, within_s=1.2)

    await holds_and_mutant_fails(scenario, Membership, "members.ComesBackAfterLeaving")


async def test_r5_8_no_work_in_callbacks(sessions: Callable[[], Sessions], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(session_type: type[Session]) -> None:
        cluster = sessions()
        observer, proxy = await cluster.open(), await cluster.proxy()
        monkeypatch.setattr("tests.support.zookeeper.Session", session_type)
        session = await cluster.open(proxy.hosts)
        monkeypatch.setattr("tests.support.zookeeper.Session", Session)
        node = member(Membership, session)
        await node.register()
        await end_session(session, cluster.hosts)

        async def back() -> bool:
            return await owner_of_node(observer) == session.session_id

        with promise("ZooKeeper's callback thread is never held up"):
            await eventually(back, within_s=2.5)
        await node.unregister()

    await holds_and_mutant_fails(scenario, Session, "members.WorksInCallbacks")


async def test_r5_8_a_storm_is_bounded(sessions: Callable[[], Sessions]) -> None:
    """Somebody deletes the node as soon as it is there, for a while: it comes back each time, but ever more slowly."""

    async def scenario(kind: Member) -> None:
        cluster = sessions()
        session, observer = await cluster.open(), await cluster.open()
        node = member(kind, session)
        await node.register()
        deletions, loop = 0, asyncio.get_running_loop()
        until = loop.time() + 2.0
        while loop.time() < until:
            try:
                await observer.delete(PATH)
                deletions += 1
            except SteleError:
                await asyncio.sleep(0.001)
        with promise("registrations are put back ever more slowly"):
            assert 2 <= deletions <= 12, deletions

        async def back() -> bool:
            return await owner_of_node(observer) == session.session_id

        await eventually(back, within_s=2.0)
        await node.unregister()

    await holds_and_mutant_fails(scenario, Membership, "members.StormsBack")


async def test_update_changes_the_record_and_survives_a_new_session(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    session, observer = await cluster.open(), await cluster.open()
    node = Membership(session, "datanodes", "dn1", MemberRecord(endpoint="a:1", store_id=7, state="loading"))
    await node.register()
    await node.update(state="ready")
    assert (await live(observer, "datanodes"))["dn1"].state == "ready"
    await end_session(session)

    async def back() -> bool:
        found = (await live(observer, "datanodes")).get("dn1")
        return found is not None and found.state == "ready" and found.store_id == 7

    await eventually(back)


async def test_live_counts_only_what_goes_with_its_session(sessions: Callable[[], Sessions]) -> None:
    session = await sessions().open()
    await session.create("members/brokers/ghost", encode(MemberRecord(endpoint="ghost:1")))
    await member(Membership, session).register()
    assert set(await live(session, "brokers")) == {"br1"}
    mirror = Mirror(session, "members", depth=2)
    await mirror.start()
    assert set(live_in(mirror, "brokers")) == {"br1"}
    await mirror.stop()


async def test_two_restarts_in_a_row_leave_the_last(sessions: Callable[[], Sessions]) -> None:
    """All three sessions are open at once; the ends of the first two must not take the third's node."""
    cluster = sessions()
    runs = [await cluster.open() for _ in range(3)]
    for run in runs:
        await NameHold(run, "br1", "a:1").settle()
        await member(Membership, run, "a:1").settle()
    await runs[0].close()
    await runs[1].close()
    node = await runs[2].get(PATH)
    assert node is not None
    assert decode(node.value, MemberRecord).owner == runs[2].incarnation
    assert await is_ours(runs[2])


async def test_a_process_that_lives_on_yields_to_its_successor_at_the_same_endpoint(
    sessions: Callable[[], Sessions],
) -> None:
    """It has closed its port and is still draining; it must not take back what its successor has registered."""
    cluster = sessions()
    old, new = await cluster.open(), await cluster.open()
    told: list[SteleError] = []
    await register_name(old, "br1", "a:1", on_taken=told.append)
    draining = Membership(old, "brokers", "br1", MemberRecord(endpoint="a:1"), on_taken=told.append)
    await draining.register()
    await register_name(new, "br1", "a:1")
    await member(Membership, new, "a:1").register()
    await eventually(lambda: len(told) == 2)
    assert all(isinstance(error, NameTaken) for error in told)
    await draining.unregister()
    assert await is_ours(new)
    await old.close()
    assert await is_ours(new)


async def test_p24_who_lost_its_name_creates_no_member_node(sessions: Callable[[], Sessions]) -> None:
    """Another process of the same name is about to register: its node is not made for it by the one that is to go."""

    async def scenario(kind: Member) -> None:
        cluster = sessions()
        session, successor = await cluster.open(), await cluster.open(incarnation=ELSEWHERE)
        name = await register_name(session, "br1", "a:1")
        node = member(kind, session)
        await node.register()
        await node.unregister()
        await name.release()
        await register_name(successor, "br1", "b:1")
        with promise("who lost its name creates no member node"):
            seen = await node.read()
            assert not seen.present
            assert node.decide(seen, node.mine()) is Decision.WAIT

    await holds_and_mutant_fails(scenario, Membership, "members.CreatesWithoutItsName")
