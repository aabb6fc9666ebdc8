"""What a store says of itself: the WatchStore stream.

Guarantee: the first message lists every replica; each change of a replica or of the store follows within ``JOIN_S``;
every ``HEARTBEAT_S`` the whole is said again, so that silence means that the store is gone.  Each event of the store
that its ring still holds (store_events.py) comes once on a stream, with or before what it led to.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from stele.datanode.directory import Quarantined
from stele.datanode.replica import Replica
from stele.datanode.store import Store
from stele.services.pb import datanode_pb2 as pb

JOIN_S = 0.01
HEARTBEAT_S = 4.0


async def watch(
    store: Store, events_after: int = 0, *, heartbeat_s: float = HEARTBEAT_S
) -> AsyncGenerator[pb.StoreStatus, None]:
    """The state now, then what changes, for ever; of its events those after that number."""
    changed: set[int] = set()
    something = asyncio.Event()

    def note(group: int) -> None:
        changed.add(group)
        something.set()

    unsubscribe = store.subscribe(note)
    try:
        while True:
            changed.clear()
            status, events_after = _with_events(status_of(store), store, events_after)
            yield status
            whole_at = asyncio.get_running_loop().time() + heartbeat_s
            while await _set_before(something, whole_at):
                await asyncio.sleep(JOIN_S)
                something.clear()
                named, changed = changed - {0}, set()
                status, events_after = _with_events(status_of(store, named), store, events_after)
                yield status
    finally:
        unsubscribe()


async def _set_before(event: asyncio.Event, deadline: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _with_events(status: pb.StoreStatus, store: Store, after: int) -> tuple[pb.StoreStatus, int]:
    """``status`` with the events after that number, and the number of the last one."""
    for replica in status.replicas:
        store.note_election(replica.group)
    status.life = store.events.life
    status.events.extend(store.events.messages(after))
    return status, store.events.newest


def status_of(store: Store, groups: set[int] | None = None) -> pb.StoreStatus:
    """The store's report: complete, or of ``groups`` alone."""
    named = sorted({*store.replicas, *store.quarantined} if groups is None else groups)
    return pb.StoreStatus(
        store_id=store.store_id,
        state=store.state,
        loaded=store.loaded,
        total=store.total,
        replicas=[_replica_of(store, group) for group in named],
        disk_free_bytes=store.disk.free_bytes,
        complete=groups is None,
        seen=store.directory.identity.seen.message(),
        disk_full=store.disk.disk_full,
    )


def _replica_of(store: Store, group: int) -> pb.ReplicaStatus:
    replica = store.replicas.get(group)
    if replica is not None:
        return _running_status(replica, store.mender.problem(group) or store.silence.problem(group))
    aside = store.quarantined.get(group)
    return _quarantined_status(aside) if aside is not None else pb.ReplicaStatus(group=group, state="deleted")


def _running_status(replica: Replica, problem: str) -> pb.ReplicaStatus:
    spec, group = replica.spec, replica.group
    status = pb.ReplicaStatus(
        group=spec.group,
        topic=spec.topic,
        partition=spec.partition,
        state=replica.state,
        high_watermark=replica.partition.high_watermark,
        problem=replica.problem,
        log_start_offset=replica.log_start,
        retention=spec.retention.message(),
        topic_id=spec.topic_id,
        owner_epoch=replica.partition.owner_epoch,
    )
    if group is not None:
        status.leader_store_id, status.term = group.leader_store_id, group.term
        status.commit_index, status.last_index = group.commit_index, group.last_index
        status.log_bytes, status.problem = group.log_bytes, group.problem
        if problem and group.state != "failed":  # why it does not catch up, or whatever else it shows
            status.problem = problem
        status.voters.extend(group.members.voters)
        status.learners.extend(group.members.learners)
        status.members_settled = group.members_settled
    return status


def _quarantined_status(aside: Quarantined) -> pb.ReplicaStatus:
    return pb.ReplicaStatus(
        group=aside.group,
        topic=aside.topic,
        topic_id=aside.topic_id,
        partition=aside.partition,
        state="quarantined",
        problem=aside.problem,
    )
