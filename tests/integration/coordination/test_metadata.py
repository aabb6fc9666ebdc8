"""Typed records, put and transactions against a real ZooKeeper (R5.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import CounterRecord, MemberRecord, PartitionRecord
from stele.services.coordination.session import Session
from stele.services.errors import CoordinationUnknown, RecordExists, RecordMissing, RecordUnreadable, VersionConflict
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions

PATH = "members/brokers/br1"
RECORD = MemberRecord(endpoint="a:1")
Store = type[MetadataStore]


def once_before(session: Session, method: str, meddle: Callable[[], object]) -> None:
    """Runs ``meddle`` (awaited if need be) just before the session's next ``method``."""
    original = getattr(session, method)

    async def meddled(*args: object, **kwargs: object) -> object:
        setattr(session, method, original)
        result = meddle()
        if asyncio.iscoroutine(result):
            await result
        return await original(*args, **kwargs)

    setattr(session, method, meddled)


async def put_onto_nothing(store: MetadataStore, rival: Session) -> None:
    await store.put(PATH, RECORD, ephemeral=True)


async def put_onto_its_own(store: MetadataStore, rival: Session) -> None:
    await store.session.create(PATH, b"{}", ephemeral=True)
    await store.put(PATH, RECORD, ephemeral=True)


async def put_after_losing_the_node(store: MetadataStore, rival: Session) -> None:
    """The node is deleted between the read and the set."""
    await store.session.create(PATH, b"{}", ephemeral=True)
    once_before(store.session, "set", lambda: rival.delete(PATH))
    await store.put(PATH, RECORD, ephemeral=True)


BRANCHES = [put_onto_nothing, put_onto_its_own, put_after_losing_the_node]


@pytest.mark.parametrize("mutant", ["members.PutDropsItsOptions", "members.RetryDropsItsOptions"])
async def test_r5_1_put_keeps_its_options_on_every_branch(sessions: Callable[[], Sessions], mutant: str) -> None:
    async def scenario(store_type: Store) -> None:
        for branch in BRANCHES:
            cluster = sessions()
            session, rival = await cluster.open(), await cluster.open()
            await branch(store_type(session), rival)
            stat = await rival.exists(PATH)
            assert stat is not None, branch
            with promise("what was put as ephemeral is ephemeral"):
                assert stat.ephemeral_owner == session.session_id, branch
            await session.close()
            assert await rival.exists(PATH) is None, branch

    await holds_and_mutant_fails(scenario, MetadataStore, mutant)


@pytest.mark.parametrize("mutant", ["members.PutDropsItsOptions", "members.RetryDropsItsOptions"])
async def test_r5_1_put_keeps_its_options_over_a_lost_connection(sessions: Callable[[], Sessions], mutant: str) -> None:
    async def scenario(store_type: Store) -> None:
        cluster = sessions()
        rival, proxy = await cluster.open(), await cluster.proxy()
        session = await cluster.open(proxy.hosts)
        loop = asyncio.get_running_loop()
        once_before(session, "create", lambda: (proxy.drop_requests(), loop.call_later(0.2, proxy.restore)))
        await store_type(session).put(PATH, RECORD, ephemeral=True)
        stat = await rival.exists(PATH)
        assert stat is not None
        with promise("what was put as ephemeral is ephemeral"):
            assert stat.ephemeral_owner == session.session_id

    await holds_and_mutant_fails(scenario, MetadataStore, mutant)


async def test_put_after_a_lost_create_race_does_not_adopt(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    session, rival = await cluster.open(), await cluster.open()
    once_before(session, "create", lambda: rival.create(PATH, b"{}", ephemeral=True))
    with pytest.raises(RecordExists):
        await MetadataStore(session).put(PATH, RECORD, ephemeral=True)
    stat = await session.exists(PATH)
    assert stat is not None
    assert stat.ephemeral_owner == rival.session_id


async def test_put_replaces_and_counts_versions(sessions: Callable[[], Sessions]) -> None:
    store = MetadataStore(await sessions().open())
    assert await store.put("stores/alloc", CounterRecord(next=1)) == 0
    assert await store.put("stores/alloc", CounterRecord(next=2)) == 1
    assert await store.put("stores/alloc", CounterRecord(next=3), version=1) == 2
    with pytest.raises(VersionConflict):
        await store.put("stores/alloc", CounterRecord(next=9), version=1)
    with pytest.raises(RecordMissing):
        await store.put("stores/none", CounterRecord(next=9), version=0)
    found = await store.get("stores/alloc", CounterRecord)
    assert found is not None
    assert (found.record.next, found.version) == (3, 2)


async def test_a_transaction_is_all_or_nothing_and_raises(sessions: Callable[[], Sessions]) -> None:
    store = MetadataStore(await sessions().open())
    partition = PartitionRecord(topic="demo/orders", index=0, replicas=(1, 2, 3))
    await store.transaction().create("partitions/1", partition).create("groups/alloc", CounterRecord(next=2)).commit()
    with pytest.raises(VersionConflict) as conflict:
        await store.transaction().create("partitions/2", partition).check("groups/alloc", 7).commit()
    assert conflict.value.facts["path"] == "groups/alloc"
    assert await store.get("partitions/2", PartitionRecord) is None
    with pytest.raises(RecordExists):
        await (
            store.transaction().set("groups/alloc", CounterRecord(next=3), 0).create("partitions/1", partition).commit()
        )
    with pytest.raises(RecordMissing):
        await store.transaction().create("partitions/2/below/nothing", partition).commit()
    results = await store.transaction().set("groups/alloc", CounterRecord(next=3), 0).delete("partitions/1", 0).commit()
    assert results == [1, True]


async def test_fifty_counters_never_give_a_number_twice(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    stores = [MetadataStore(await cluster.open()) for _ in range(5)]
    await stores[0].create("stores/alloc", CounterRecord(next=1))

    async def take(store: MetadataStore) -> int:
        while True:
            found = await store.get("stores/alloc", CounterRecord)
            assert found is not None
            try:
                await store.set("stores/alloc", CounterRecord(next=found.record.next + 1), found.version)
                return found.record.next
            except VersionConflict:
                continue

    taken = await asyncio.gather(*(take(store) for store in stores for _ in range(10)))
    assert sorted(taken) == list(range(1, 51))


async def test_a_record_of_another_shape_is_refused(sessions: Callable[[], Sessions]) -> None:
    session = await sessions().open()
    await session.create("stores/1", b"not json")
    await session.create("stores/2", b'{"format": 99, "next": 1}')
    store = MetadataStore(session)
    for path in ("stores/1", "stores/2"):
        with pytest.raises(RecordUnreadable) as unreadable:
            await store.get(path, CounterRecord)
        assert unreadable.value.facts["path"] == path


async def test_r1_1_no_read_takes_silence_for_absence(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    proxy = await cluster.proxy()
    session = await cluster.open(proxy.hosts, request_timeout_s=0.3)
    store = MetadataStore(session)
    proxy.drop_answers()
    for question in (
        session.exists("cluster"),
        session.get("nothing"),
        session.children("nothing"),
        store.get("cluster", CounterRecord),
        store.children("stores"),
        store.list("stores", CounterRecord),
        store.put("stores/alloc", CounterRecord(next=1)),
        store.transaction().check("cluster", 0).commit(),
    ):
        with pytest.raises(CoordinationUnknown):
            await question
    proxy.restore()
    await eventually(lambda: session.exists("cluster"))
