"""A copy that follows, and survives whatever happens to its session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stele.local.zookeeper import ZooKeeperServer
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.mirror import Mirror
from stele.services.coordination.records import CounterRecord, TopicRecord
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions, end_session, open_session

TOPIC = TopicRecord(id=1, partitions=4, replication=3, state="ready", created_ms=0)


async def test_follows_creations_changes_and_deletions(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    writer, reader = await cluster.open(), await cluster.open()
    store = MetadataStore(writer)
    mirror = Mirror(reader, "topics", depth=2)
    await mirror.start()
    assert set(mirror.snapshot) == {"topics"}
    changes: set[str] = set()
    mirror.subscribe(lambda paths: changes.update(paths))
    await store.transaction().create("topics/demo").create("topics/demo/orders", TOPIC).commit()
    await eventually(lambda: mirror.get("topics/demo/orders", TopicRecord) == TOPIC)
    assert "topics/demo/orders" in changes
    await store.put(
        "topics/demo/orders", TopicRecord(id=1, partitions=4, replication=3, state="deleting", created_ms=0)
    )
    await eventually(lambda: mirror.records("topics/demo", TopicRecord)["orders"].state == "deleting")
    await store.transaction().delete("topics/demo/orders", 1).create("topics/demo/other", TOPIC).commit()
    await eventually(lambda: mirror.children("topics/demo") == ["other"])
    await store.transaction().delete("topics/demo/other", 0).delete("topics/demo", 0).commit()
    await eventually(lambda: set(mirror.snapshot) == {"topics"})
    await mirror.stop()


async def test_follows_a_storm_of_changes_to_the_end(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    writers, reader = [await cluster.open() for _ in range(3)], await cluster.open()
    mirror = Mirror(reader, "stores", depth=1)
    await mirror.start()

    async def write(number: int) -> None:
        store = MetadataStore(writers[number % 3])
        path = f"stores/{number}"
        for next_id in range(3):
            await store.put(path, CounterRecord(next=next_id))
            if number % 2:
                await store.session.delete(path)

    await asyncio.gather(*(write(number) for number in range(60)))
    wanted = {str(number) for number in range(0, 60, 2)}
    await eventually(lambda: set(mirror.children("stores")) == wanted)
    await eventually(lambda: all(r.next == 2 for r in mirror.records("stores", CounterRecord).values()))
    await mirror.stop()


async def test_the_path_itself_vanishes_and_comes_back(sessions: Callable[[], Sessions]) -> None:
    session = await sessions().open()
    store = MetadataStore(session)
    mirror = Mirror(session, "stores", depth=1)
    await mirror.start()
    for round_number in range(3):
        await store.create(f"stores/{round_number}", CounterRecord(next=1))
        await eventually(lambda n=round_number: mirror.children("stores") == [str(n)])
        await session.delete(f"stores/{round_number}")
        await session.delete("stores")
        await eventually(lambda: not mirror.snapshot)
        await session.ensure("stores")
    await mirror.stop()


async def test_catches_up_after_an_expired_session(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    proxy = await cluster.proxy()
    writer, reader = await cluster.open(), await cluster.open(proxy.hosts)
    store = MetadataStore(writer)
    await store.create("stores/kept", CounterRecord(next=1))
    await store.create("stores/deleted", CounterRecord(next=1))
    mirror = Mirror(reader, "stores", depth=1)
    await mirror.start()
    first, credentials = reader.session_id, reader.credentials
    proxy.cut()
    await eventually(lambda: not mirror.synced)
    assert mirror.children("stores") == ["deleted", "kept"]  # the last good view
    await store.delete("stores/deleted", 0)
    await store.create("stores/created", CounterRecord(next=1))
    await end_session(reader, cluster.hosts, credentials)
    proxy.restore()
    await eventually(lambda: reader.session_id != first)
    await eventually(lambda: mirror.synced and mirror.children("stores") == ["created", "kept"])
    await mirror.stop()


async def test_survives_a_restart_of_zookeeper(own_zookeeper: ZooKeeperServer, cluster_name: str) -> None:
    async with open_session(own_zookeeper.hosts, cluster_name, 4.0) as session:
        store = MetadataStore(session)
        await store.create("stores/1", CounterRecord(next=1))
        mirror = Mirror(session, "stores", depth=1)
        await mirror.start()
        await own_zookeeper.async_restart()
        assert mirror.children("stores") == ["1"]
        await eventually(lambda: mirror.synced, within_s=15)
        await store.create("stores/2", CounterRecord(next=1))
        await eventually(lambda: mirror.children("stores") == ["1", "2"])
        await mirror.stop()
