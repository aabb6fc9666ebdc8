"""Copies of the records are taken whole from a ZooKeeper that is written to, and put back into one whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stele.services.coordination.copy_document import MetadataCopy
from stele.services.coordination.copy_merge import EPOCH_LEAP, merged
from stele.services.coordination.election import Election
from stele.services.coordination.members import Membership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import (
    ClusterRecord,
    CounterRecord,
    EpochRecord,
    MemberRecord,
    PartitionRecord,
    TopicRecord,
)
from stele.services.coordination.schema import EPOCH
from stele.services.coordination.session import Session
from stele.services.coordination.tree_import import import_copy, plan_import
from stele.services.coordination.tree_reader import copy_of, read_tree
from stele.services.coordination.znode import Op
from stele.services.errors import (
    ClusterMismatch,
    CoordinationUnknown,
    ImportRefused,
    InvalidArgument,
    LeadershipLost,
    SteleError,
)
from tests.support.eventually import eventually
from tests.support.zookeeper import Sessions, open_session
from tests.unit.coordination.copies import TOPIC, copy_with

PATIENCE_S = 10.0  # as the command has
COPY = copy_with()
WHOLE = merged(COPY, MetadataCopy("c", {}))


async def importer(cluster: Sessions, kind: type[Session] = Session) -> Session:
    """A session that has left the tree as it was."""
    session = kind(cluster.hosts, cluster.cluster, PATIENCE_S)
    await session.start(20, prepares=False)
    cluster.stack.push_async_callback(session.close)
    return session


async def recorded(session: Session) -> MetadataCopy:
    copy, wrong = copy_of(session.cluster, await read_tree(session))
    assert wrong == {}
    return copy


def but_for_the_epoch(copy: MetadataCopy) -> dict[str, Any]:
    return {path: value for path, value in copy.records.items() if path != EPOCH}


async def test_a_copy_is_put_back_into_an_empty_tree_and_another_one_is_as_it(sessions: Callable[[], Sessions]) -> None:
    session = await importer(sessions())
    assert (await recorded(session)).records == {}
    planned = await plan_import(session, COPY)
    assert (await recorded(session)).records == {}, "a plan changes nothing"
    done = await import_copy(session, COPY)
    assert set(planned.created) == WHOLE.keys()
    assert (done.changed, done.removed, done.resumed) == ((), (), False)
    now = await recorded(session)
    assert but_for_the_epoch(now) == WHOLE
    assert now.epoch == EpochRecord(epoch=5 + EPOCH_LEAP, imported=True)
    # Whoever starts now finds its cluster.
    assert await sessions_cluster_id(session) == "c1"


async def sessions_cluster_id(session: Session) -> str:
    async with open_session(session.hosts, session.cluster, PATIENCE_S) as started:
        return started.cluster_id


class Dying(Session):
    """Its process dies at its n-th write: before it, or after it with the answer lost."""

    writes_left = 0
    after = False

    async def commit(self, ops: Sequence[Op], **more: Any) -> list[Any]:
        return await self._dying(super().commit(ops, **more))  # type: ignore[no-any-return]

    async def set(self, *given: Any, **more: Any) -> Any:
        return await self._dying(super().set(*given, **more))

    async def create(self, *given: Any, **more: Any) -> Any:
        return await self._dying(super().create(*given, **more))

    async def _dying(self, write: Any) -> Any:
        self.writes_left -= 1
        if self.writes_left == 0 and self.after:
            await write
        if self.writes_left <= 0:
            write.close()
            raise asyncio.CancelledError
        return await write


@pytest.mark.parametrize("after", [False, True])
async def test_an_import_that_dies_anywhere_is_taken_up_and_until_then_nobody_leads(
    sessions: Callable[[], Sessions], after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stele.services.coordination.tree_import.WRITES_PER_TRANSACTION_MAX", 8)
    died = 0
    for write in (1, 2, 9, *range(13, 22)):  # those in between make folders
        cluster = sessions()
        dying = await importer(cluster, Dying)
        assert isinstance(dying, Dying)
        dying.writes_left, dying.after = write, after
        try:
            await import_copy(dying, COPY)
        except asyncio.CancelledError:
            died += 1
        else:
            break
        session = await importer(cluster)
        found = await recorded(session)
        if found.epoch.importing:
            with pytest.raises(ImportRefused, match="import of another copy has not ended"):
                await import_copy(session, copy_with(epoch=EpochRecord(epoch=6)))
            if write == 9:
                election = Election(await cluster.open(timeout_s=PATIENCE_S), "ns1", "ns1:1")
                await election.campaign()
                await asyncio.sleep(0.5)
                assert election.leadership is None
                await election.resign()
        if not found.epoch.imported:
            done = await import_copy(session, COPY)
            assert done.resumed == bool(found.epoch.importing)
        now = await recorded(session)
        assert set(now.records) == {*WHOLE, EPOCH}
        assert now.epoch.imported
        assert not now.epoch.importing
        assert now.high_water.topics == 2
    assert died > 6


async def test_whoever_led_is_deposed_by_an_import_and_leads_again_after_it(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    session = await importer(cluster)
    await import_copy(session, COPY)
    election = Election(await cluster.open(timeout_s=PATIENCE_S), "ns1", "ns1:1")
    await election.campaign()
    before = await asyncio.wait_for(election.elected(), 10)
    newer = copy_with(
        epoch=EpochRecord(epoch=5 + EPOCH_LEAP + 9),
        topics__alloc=CounterRecord(next=3),
        topics__demo__u=TopicRecord(id=2, partitions=0, replication=1, state="ready", created_ms=1),
    )
    await import_copy(session, newer)
    with pytest.raises(LeadershipLost):
        await before.transaction().create("topics/demo/late", TOPIC).commit()
    after = await asyncio.wait_for(election.elected(), 10)
    assert after.epoch > before.epoch + EPOCH_LEAP
    now = await recorded(session)
    assert now.epoch.imported, "who is elected carries on what is not done yet"
    assert "topics/demo/u" in now.records
    await election.resign()


async def test_of_two_imports_at_once_no_mixture_comes(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    first, second = await importer(cluster), await importer(cluster)
    outcomes = await asyncio.gather(import_copy(first, COPY), import_copy(second, COPY), return_exceptions=True)
    refused = [e for e in outcomes if isinstance(e, BaseException)]
    assert all(isinstance(e, ImportRefused | CoordinationUnknown) for e in refused), refused
    if len(refused) == 2:
        await import_copy(first, COPY)
    now = await recorded(first)
    assert set(now.records) == {*WHOLE, EPOCH}
    assert now.epoch.imported


async def test_what_is_newer_is_not_lost_and_the_leader_leads_on(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    session = await importer(cluster)
    await import_copy(session, COPY)
    election = Election(await cluster.open(timeout_s=PATIENCE_S), "ns1", "ns1:1")
    await election.campaign()
    leadership = await asyncio.wait_for(election.elected(), 10)
    topic = TopicRecord(id=2, partitions=0, replication=1, state="ready", created_ms=1)
    counter = await MetadataStore(session).get("topics/alloc", CounterRecord)
    assert counter is not None
    transaction = leadership.transaction().create("topics/demo/new", topic)
    await transaction.set("topics/alloc", CounterRecord(next=3), counter.version).commit()
    before = await recorded(session)
    for attempt in (plan_import, import_copy):
        with pytest.raises(
            ImportRefused, match=r"topic ids have come to 3, in the copy to 2; topics/demo/new"
        ) as refused:
            await attempt(session, COPY)
        assert refused.value.facts["lost"] == "2"
    assert (await recorded(session)).records == before.records
    await leadership.transaction().check("topics/demo/new", 0).commit()
    await election.resign()


async def test_what_a_leader_writes_while_an_import_begins_is_not_lost(sessions: Callable[[], Sessions]) -> None:
    """Between the reading that was judged and the write by which nobody leads any more."""
    cluster = sessions()
    await import_copy(await importer(cluster), COPY)
    election = Election(await cluster.open(timeout_s=PATIENCE_S), "ns1", "ns1:1")
    await election.campaign()
    leadership = await asyncio.wait_for(election.elected(), 10)
    group = PartitionRecord(topic="demo/t", index=0, replicas=(1,))

    class Late(Session):
        wrote = False

        async def commit(self, ops: Sequence[Op], **more: Any) -> list[Any]:
            if not self.wrote:
                self.wrote = True
                store = MetadataStore(self)
                counter = await store.get("groups/alloc", CounterRecord)
                assert counter is not None
                late = leadership.transaction().create("partitions/3", group)
                await late.set("groups/alloc", CounterRecord(next=4), counter.version).commit()
            return await super().commit(ops, **more)

    late = await importer(cluster, Late)
    with pytest.raises(ImportRefused, match="group ids have come to 4"):
        await import_copy(late, COPY)
    now = await recorded(late)
    assert "partitions/3" in now.records
    assert not now.epoch.importing
    await eventually(
        lambda: election.leadership is not None and election.leadership.epoch > leadership.epoch, within_s=15
    )
    await election.resign()


async def test_another_cluster_is_not_overwritten_unless_nothing_was_done_in_it(
    sessions: Callable[[], Sessions],
) -> None:
    cluster = sessions()
    founder = await cluster.open(timeout_s=PATIENCE_S)  # as a nameserver that starts over a ZooKeeper that was wiped
    member = Membership(founder, "nameservers", "ns1", MemberRecord(endpoint="h:1"))
    await member.register()
    session = await importer(cluster)
    with pytest.raises(ClusterMismatch, match="ns1 lives in it: stop that first"):
        await import_copy(session, COPY)
    assert (await recorded(session)).cluster_id == founder.cluster_id
    await member.unregister()
    await founder.close()
    await import_copy(session, COPY)
    assert (await recorded(session)).cluster_id == "c1"
    with pytest.raises(ClusterMismatch, match=r"holds the cluster c1 at .*, the copy is of c2"):
        await import_copy(session, copy_with(cluster=ClusterRecord(id="c2", created_ms=1)))
    assert but_for_the_epoch(await recorded(session)) == WHOLE


@pytest.mark.parametrize(
    "broken",
    [
        MetadataCopy("c", {**COPY.records, "topics/demo/t": {"format": 9}}),
        MetadataCopy("c", {**COPY.records, "stores/1": {"format": 1}}),
        MetadataCopy("c", {p: v for p, v in COPY.records.items() if p != "cluster"}),
        MetadataCopy("c", {p: v for p, v in COPY.records.items() if p != EPOCH}),
    ],
)
async def test_a_copy_that_cannot_be_read_is_refused_before_anything_is_written(
    sessions: Callable[[], Sessions], broken: MetadataCopy
) -> None:
    session = await importer(sessions())
    for attempt in (plan_import, import_copy):
        with pytest.raises(InvalidArgument, match="the copy cannot be imported"):
            await attempt(session, broken)
    assert (await recorded(session)).records == {}


async def test_what_is_read_was_there_at_one_moment(sessions: Callable[[], Sessions]) -> None:
    """Two records that change in one transaction are never seen apart."""
    cluster = sessions()
    writing, reading = await cluster.open(timeout_s=PATIENCE_S), await cluster.open(timeout_s=PATIENCE_S)
    store = MetadataStore(writing)
    await (
        store.transaction()
        .create("topics/alloc", CounterRecord(next=1))
        .create("groups/alloc", CounterRecord(next=1))
        .commit()
    )
    seen: set[int] = set()

    async def write() -> None:
        for number in range(2, 10_000):
            transaction = store.transaction().set("topics/alloc", CounterRecord(next=number), -1)
            await transaction.set("groups/alloc", CounterRecord(next=number), -1).commit()
            await asyncio.sleep(0.02 if number % 4 else 0.2)

    writer = asyncio.create_task(write())
    try:

        async def read_some() -> bool:
            with contextlib.suppress(SteleError):  # it changed in each of so many readings
                water = (await recorded(reading)).high_water
                assert water.topics == water.groups
                seen.add(water.topics)
            return len(seen) > 5

        await eventually(read_some, within_s=30)
    finally:
        writer.cancel()
