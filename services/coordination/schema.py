"""The tree below ``/stele/<cluster>`` that every process may count on once its session has started."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

from stele.services.coordination.records import ClusterRecord, EpochRecord, decode, encode
from stele.services.errors import CoordinationUnknown

if TYPE_CHECKING:
    from stele.services.coordination.session import Session

CLUSTER, EPOCH, LEADER, ELECTION, NAMES, MEMBERS = "cluster", "epoch", "leader", "election", "names", "members"
KINDS = ("nameservers", "datanodes", "brokers")
PARENTS = (
    ELECTION,
    NAMES,
    MEMBERS,
    *(f"{MEMBERS}/{kind}" for kind in KINDS),
    "stores",
    "groups",
    "namespaces",
    "topics",
    "partitions",
    "bundles",
    "operations",
)


async def prepare(session: Session) -> str:
    """Creates whatever of the tree is missing, in any number of processes at once; answers the cluster's id."""
    node = await session.get(CLUSTER)
    if node is None:
        await session.ensure_root()
        created_ms = time.time_ns() // 1_000_000
        await session.ensure(CLUSTER, encode(ClusterRecord(id=str(uuid.uuid4()), created_ms=created_ms)))
        node = await session.get(CLUSTER)
        if node is None:
            raise CoordinationUnknown(f"{session.root} vanished while it was prepared", path=CLUSTER)
    present = await asyncio.gather(*(session.exists(path) for path in (EPOCH, *PARENTS)))
    missing = [path for path, stat in zip((EPOCH, *PARENTS), present, strict=True) if stat is None]
    for path in missing:  # in order: parents come before their children
        await session.ensure(path, encode(EpochRecord(epoch=0)) if path == EPOCH else b"")
    return decode(node.value, ClusterRecord, CLUSTER).id
