"""Which event an event follows from, where its maker cannot say it alone.  Pure.

Guarantee: an id that is given here is that of an event that its decision went by; where none is known it is "".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Protocol

from stele.nameserver.bundle_assignment import Assign, BundleCause
from stele.nameserver.catalog import Catalog, Member
from stele.nameserver.events import ClusterEvent
from stele.nameserver.moves import BeginMove, Cause
from stele.services.bundles import bundle_of
from stele.services.events import EventKind, bundle_moved_id, event_id
from stele.services.pb.datanode_pb2 import StoreEvent

SILENCE_FRESH_S = 60.0  # how old a silence may be that the end of a session is put down to


class Newest(Protocol):
    """The newest event of a subject, of those kinds, that a nameserver remembers and that ``fits``."""

    def __call__(
        self, subject: str, kinds: Collection[str], fits: Callable[[ClusterEvent], bool] = ...
    ) -> ClusterEvent | None: ...


_SIGNS = frozenset({EventKind.PROCESS_GONE, EventKind.PROCESS_SILENT})
_GONE = frozenset({EventKind.PROCESS_GONE, EventKind.MEMBER_GONE})


def behind_assignment(change: Assign, catalog: Catalog, newest: Newest) -> str:
    """The event for which a bundle is given to another broker.  ``newest(subject, kinds)``: what the leading nameserver remembers."""
    former = catalog.brokers.get(change.former)
    match change.cause:
        case BundleCause.GONE:
            gone = newest(change.former, _GONE)
            if gone is None or (former is not None and gone.facts.get("incarnation") != str(former.joined_zxid)):
                return ""
            return gone.id
        case BundleCause.DRAINED if (word := catalog.drained.get(change.former)) is not None:
            return event_id(EventKind.BROKER_DRAINED, word.name, word.zxid)
        case BundleCause.DRAINING if former is not None:
            return event_id(EventKind.MEMBER_DRAINING, former.name, former.joined_zxid)
        case BundleCause.REREGISTERED if former is not None:
            return event_id(EventKind.MEMBER_JOINED, former.name, former.joined_zxid)
        case _:
            return ""


def behind_move(move: BeginMove, catalog: Catalog, newest: Newest) -> str:
    """The event for which replicas move: the operation's, or that with which the store was away that holds the one to be replaced."""
    source = catalog.stores.get(move.source)
    partition = catalog.partitions.get(move.group)
    found: ClusterEvent | None = None
    match move.cause:
        case Cause.DECOMMISSION if source is not None:
            found = newest(source.name, {EventKind.DECOMMISSION_BEGAN})
        case Cause.REPAIR if source is not None and move.source not in catalog.live_stores:
            store_id = str(move.source)
            found = newest(source.name, {EventKind.MEMBER_GONE}, lambda e: e.facts.get("store_id") == store_id)
        case Cause.BALANCE if catalog.rebalance is not None:
            found = newest("replicas", {EventKind.REBALANCE_BEGAN})
        case Cause.REPLICATION if partition is not None:
            found = newest(
                partition.topic,
                {EventKind.TOPIC_ALTERED},
                lambda e: "replication" in e.facts.get("changed", "").split(","),
            )
        case _:
            pass
    return found.id if found is not None else ""


def with_signs(events: Iterable[ClusterEvent], newest: Newest, now_s: float) -> list[ClusterEvent]:
    """``events`` as they were derived, and of members that are gone how their process was seen to be before the session ended: by a sign
    that came after it had registered, and of silence a fresh one.  ``now_s`` is on the clock of who remembers."""
    return [_with_sign(event, newest, now_s) for event in events]


def _with_sign(event: ClusterEvent, newest: Newest, now_s: float) -> ClusterEvent:
    if event.kind != EventKind.MEMBER_GONE or event.caused_by:
        return event
    incarnation = event.facts["incarnation"]
    joined = newest(event.subject, {EventKind.MEMBER_JOINED}, lambda e: e.facts["incarnation"] == incarnation)
    sign = newest(event.subject, _SIGNS)
    if joined is None or sign is None or sign.recorded_s < joined.recorded_s:
        return event
    if sign.facts.get("incarnation", incarnation) != incarnation:
        return event
    if sign.kind == EventKind.PROCESS_SILENT and now_s - sign.recorded_s > SILENCE_FRESH_S:
        return event
    cause = sign.cause if event.cause == "session_ended" else event.cause
    return replace(event, cause=cause, caused_by=sign.id)


def told_by(member: Member, told: StoreEvent, catalog: Catalog, recorded_s: float) -> ClusterEvent:
    """What the store of ``member`` saw or did, in the names that the records have."""
    facts, caused_by = dict(told.facts), told.caused_by
    if told.peer_store_id:
        subject = _name(told.peer_store_id, catalog)
        facts |= {"kind": "datanode", "store_id": str(told.peer_store_id), "seen_by": member.name}
    else:
        subject = f"{told.topic}-{told.partition}"
        facts |= {"group": str(told.group), "leader": member.name, "store_id": str(member.store_id)}
        for known in ("former", "successor"):
            if store_id := facts.get(f"{known}_store_id"):
                facts[known] = _name(int(store_id), catalog)
        if told.kind == EventKind.PARTITION_WRITTEN and told.cause == "new_owner":
            caused_by = _owner_given(told, catalog)
    return ClusterEvent(told.kind, subject, facts, 0, told.id, told.cause, caused_by, recorded_s=recorded_s)


def _owner_given(told: StoreEvent, catalog: Catalog) -> str:
    namespace = catalog.namespaces.get(told.topic.partition("/")[0])
    if namespace is None:
        return ""
    bundle = bundle_of(told.topic, told.partition, namespace.bundles, namespace.splits)
    return bundle_moved_id(bundle, int(told.facts["owner_epoch"]))


def _name(store_id: int, catalog: Catalog) -> str:
    store = catalog.stores.get(store_id)
    return store.name if store is not None else f"store {store_id}"
