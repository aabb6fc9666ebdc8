"""What stores hold and no record speaks for, and what they keep of what was deleted.

Guarantee: nothing of either goes but by its own time, or by a word about that very replica.
"""

from __future__ import annotations

from stele import arguments
from stele.bundle_calls import BundleCalls
from stele.model import OrphanInfo, TrashedReplica, TrashInfo
from stele.services.pb import nameserver_pb2

_STRAY = ("orphan", "stranger")


class KeptCalls(BundleCalls):
    """The part of ``client.admin`` that is about replicas outside of the records."""

    async def list_orphans(self) -> list[OrphanInfo]:
        """Replicas that stores hold and no record speaks for, as after ZooKeeper lost data."""
        answer = await self._read("ListStores", nameserver_pb2.ListStoresRequest())
        return [
            OrphanInfo(s.store_id, s.name, r.group, r.topic, r.topic_id, r.partition, r.state, r.log_bytes)
            for s in answer.stores
            for r in s.status.replicas
            if r.state in _STRAY
        ]

    async def list_trash(self) -> list[TrashInfo]:
        """What every registered store keeps of what was deleted.  One that does not answer is listed with the reason."""
        answer = await self._read("ListTrash", nameserver_pb2.ListTrashRequest())
        return [
            TrashInfo(
                s.store_id,
                s.name,
                tuple(
                    TrashedReplica(
                        r.folder, r.group, r.topic, r.topic_id, r.partition, r.size_bytes, r.age_ms, r.retention_ms
                    )
                    for r in s.replicas
                ),
                s.problem,
            )
            for s in answer.stores
        ]

    async def remove_orphan(self, orphan: OrphanInfo) -> None:
        """Its store moves it to its trash.  Raises GroupNotFound where there is no such orphan any more."""
        if not isinstance(orphan, OrphanInfo):
            raise arguments.refusal("orphan", orphan, "an OrphanInfo of list_orphans")
        for name, number in (("store_id", orphan.store_id), ("group", orphan.group), ("topic_id", orphan.topic_id)):
            arguments.whole(f"orphan: {name}", number, 0, (1 << 64) - 1)
        request = nameserver_pb2.RemoveOrphanRequest(
            store_id=orphan.store_id, group=orphan.group, topic_id=orphan.topic_id
        )
        await self._write("RemoveOrphan", request)
