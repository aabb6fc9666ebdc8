"""What every process may count on once its session has started: the cluster's own record, the epoch, and every folder of the tree.

Guarantee: whoever comes first makes them, and a cluster has one id for all, in however many processes at once.  It begins at the record
format that its founder knows; nobody goes on in a cluster that is at a higher one than it knows itself.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

from stele.services.coordination.records import ClusterRecord, EpochRecord, decode, encode, written_format
from stele.services.coordination.schema import CLUSTER, EPOCH, PARENTS
from stele.services.errors import CoordinationUnknown, FormatUnknown

if TYPE_CHECKING:
    from stele.services.coordination.session import Session


async def prepare(session: Session) -> str:
    """Creates whatever of the tree is missing, in any number of processes at once; answers the cluster's id.  FormatUnknown."""
    node = await session.get(CLUSTER)
    if node is None:
        await session.ensure_root()
        created_ms = time.time_ns() // 1_000_000
        founded = ClusterRecord(id=str(uuid.uuid4()), created_ms=created_ms, format=session.record_format)
        await session.ensure(CLUSTER, encode(founded))
        node = await session.get(CLUSTER)
        if node is None:
            raise CoordinationUnknown(f"{session.root} vanished while it was prepared", path=CLUSTER)
    cluster = joined(node.value, session.record_format)
    present = await asyncio.gather(*(session.exists(path) for path in (EPOCH, *PARENTS)))
    missing = [path for path, stat in zip((EPOCH, *PARENTS), present, strict=True) if stat is None]
    for path in missing:  # in order: parents come before their children
        await session.ensure(path, encode(EpochRecord(epoch=0)) if path == EPOCH else b"")
    return cluster.id


def joined(value: bytes, known: int) -> ClusterRecord:
    """The cluster's record, for a process that knows the record format ``known``.  FormatUnknown where it is at a higher one, or about to
    be; RecordUnreadable."""
    written = written_format(value)
    if written <= known:
        cluster = decode(value, ClusterRecord, CLUSTER)
        written = cluster.joined_by
        if written <= known:
            return cluster
    raise FormatUnknown(
        f"the cluster is at record format {written}, and this version knows {known}", format=written, known=known
    )
