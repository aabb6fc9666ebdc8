"""Which event an event follows from, where its maker cannot say it alone.  Pure.

Guarantee: an id that is given here is that of an event that its decision went by; where none is known it is "".
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from stele.nameserver.bundle_assignment import Assign, BundleCause
from stele.nameserver.catalog import Catalog, Member
from stele.nameserver.events import ClusterEvent
from stele.services.bundles import bundle_of
from stele.services.events import EventKind, bundle_moved_id, event_id
from stele.services.pb.datanode_pb2 import StoreEvent

Newest = Callable[[str, Collection[str]], ClusterEvent | None]
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
            return event_id("broker_drained", word.name, word.zxid)
        case BundleCause.DRAINING if former is not None:
            return event_id("member_draining", former.name, former.joined_zxid)
        case BundleCause.REREGISTERED if former is not None:
            return event_id("member_joined", former.name, former.joined_zxid)
        case _:
            return ""


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
