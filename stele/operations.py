"""Moving replicas, and taking stores out of a cluster.

Guarantee: a call that returned is recorded, and goes on whichever nameserver leads; ``list_operations`` says how far it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from stele import arguments
from stele.model import (
    DecommissionPlan,
    ExplainedReplica,
    OperationInfo,
    PartitionExplanation,
    PlannedMove,
    RebalancePlan,
    SkippedStore,
    StayingReplica,
    StayingReplicas,
)
from stele.services.errors import StoreUnknown, Timeout
from stele.services.pb import nameserver_pb2 as pb
from stele.services.rpc.nameservers import NameserverClient

READ_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 30.0
PROGRESS_S = 0.5
ID_MAX = (1 << 63) - 1


class Operations:
    """The part of ``client.admin`` that is about moves."""

    _nameservers: NameserverClient
    _client: Any

    async def decommission_store(self, store_id: int, *, dry_run: bool = False) -> DecommissionPlan:
        """The store gets nothing new from now on, its leaders go, then its replicas, one by one, and in the end it is a tombstone.  The
        plan as of now; a ``dry_run`` changes nothing.  Idempotent.  Raises StoreUnknown, StoreTombstone, and NotEnoughStores while too few
        others are up."""
        arguments.whole("store_id", store_id, 1, ID_MAX)
        arguments.flag("dry_run", dry_run)
        request = pb.DecommissionStoreRequest(store_id=store_id, dry_run=dry_run)
        answer = await self._write("DecommissionStore", request)
        return DecommissionPlan(
            _moves(answer),
            tuple(StayingReplica(s.topic, s.partition, s.group, s.store_id, s.why) for s in answer.stays),
        )

    async def recommission_store(self, store_id: int) -> None:
        """The store is up again; moves that have begun end.  Idempotent.  Raises StoreUnknown, and StoreTombstone when it is too late."""
        arguments.whole("store_id", store_id, 1, ID_MAX)
        await self._write("RecommissionStore", pb.RecommissionStoreRequest(store_id=store_id))

    async def cordon_store(self, store_id: int, *, cordoned: bool = True) -> None:
        """The store gets no replicas from now on, and keeps those that it has, until it is called with ``cordoned=False``.  Idempotent.
        Raises StoreUnknown, StoreTombstone."""
        arguments.whole("store_id", store_id, 1, ID_MAX)
        arguments.flag("cordoned", cordoned)
        await self._write("CordonStore", pb.CordonStoreRequest(store_id=store_id, cordoned=cordoned))

    async def decommissioning(self, store_id: int, timeout_s: float) -> AsyncIterator[OperationInfo]:
        """How far the decommission of a store is, now and again, until nothing is left.  Raises StoreUnknown, Timeout."""
        arguments.whole("store_id", store_id, 1, ID_MAX)
        arguments.timeout_s(timeout_s)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            stores = (await self._read("ListStores", pb.ListStoresRequest())).stores
            store = next((s for s in stores if s.store_id == store_id), None)
            if store is None:
                raise StoreUnknown(f"there is no store {store_id}", store_id=store_id)
            if store.state != "offline":
                return
            for operation in await self.list_operations():
                if operation.kind == "decommission" and operation.store_id == store_id:
                    yield operation
            if asyncio.get_running_loop().time() >= deadline:
                raise Timeout(f"store {store_id} is not decommissioned yet; it goes on", timeout_s=timeout_s)
            await asyncio.sleep(PROGRESS_S)

    async def explain_partition(self, group: int) -> PartitionExplanation:
        """Why its replicas are where they are, why they move or do not, and what is waited for.  Raises GroupNotFound."""
        arguments.whole("group", group, 1, ID_MAX)
        answer = await self._read("ExplainPartition", pb.ExplainPartitionRequest(group=group))
        return PartitionExplanation(
            topic=answer.topic,
            partition=answer.partition,
            group=answer.group,
            leader=answer.leader,
            replicas=tuple(ExplainedReplica(r.store_id, r.here, r.next) for r in answer.replicas),
            waits_for=tuple(answer.waits_for),
        )

    async def rebalance(self, *, dry_run: bool = False) -> RebalancePlan:
        """Replicas move, a few at a time, until no store has more than its share.  The plan as of now; a ``dry_run`` changes nothing.
        Idempotent."""
        arguments.flag("dry_run", dry_run)
        answer = await self._write("RebalanceReplicas", pb.RebalanceReplicasRequest(dry_run=dry_run))
        return RebalancePlan(
            _moves(answer),
            tuple(StayingReplicas(s.store_id, s.why, s.count, tuple(s.partitions)) for s in answer.stays),
            answer.waits_for,
        )

    async def rebalancing(self, timeout_s: float) -> AsyncIterator[OperationInfo]:
        """How far a rebalance is, now and again, until replicas are even.  Raises Timeout."""
        arguments.timeout_s(timeout_s)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (found := next((o for o in await self.list_operations() if o.kind == "rebalance"), None)) is not None:
            yield found
            if asyncio.get_running_loop().time() >= deadline:
                raise Timeout("replicas are not even yet; the rebalance goes on", timeout_s=timeout_s)
            await asyncio.sleep(PROGRESS_S)

    async def remove_tombstones(self, store_ids: list[int] | None = None) -> tuple[list[int], list[SkippedStore]]:
        """Forgets stores that are tombstones, but for their ids, which are never given out again; None: all of them.  The ids, and the
        stores that are not removed.  Raises StoreUnknown."""
        ids = [] if store_ids is None else store_ids
        if not isinstance(ids, list):
            raise arguments.refusal("store_ids", ids, "a list of store ids, or None")
        for store_id in ids:
            arguments.whole("store_ids", store_id, 1, ID_MAX)
        answer = await self._write("RemoveTombstones", pb.RemoveTombstonesRequest(store_ids=ids))
        return list(answer.buried), [SkippedStore(s.store_id, s.name, s.why) for s in answer.skipped]

    async def move_partition(self, group: int, from_store: int, to_store: int) -> None:
        """Another store holds the replica in place of ``from_store``; returns once it is recorded.  Raises GroupNotFound, InvalidArgument,
        and NotReady while that partition or store cannot take part."""
        for name, number in (("group", group), ("from_store", from_store), ("to_store", to_store)):
            arguments.whole(name, number, 1, ID_MAX)
        await self._write(
            "MovePartition",
            pb.MovePartitionRequest(group=group, from_store_id=from_store, to_store_id=to_store),
        )

    async def transfer_leader(self, group: int, to_store: int = 0) -> tuple[int, int]:
        """Another replica leads the partition; 0: that of the store which leads the fewest.  The stores that led before and lead now, the
        same where ``to_store`` led already.  Raises GroupNotFound, InvalidArgument, and NotReady while that replica cannot lead."""
        arguments.whole("group", group, 1, ID_MAX)
        arguments.whole("to_store", to_store, 0, ID_MAX)
        request = pb.TransferPartitionLeaderRequest(group=group, to_store_id=to_store)
        answer = await self._write("TransferPartitionLeader", request)
        return answer.from_store_id, answer.to_store_id

    async def list_operations(self) -> list[OperationInfo]:
        """Decommissions, moves and changes of topics that are under way."""
        answer = await self._read("ListOperations", pb.ListOperationsRequest())
        return [
            OperationInfo(
                id=o.id,
                kind=o.kind,
                cause=o.cause,
                step=o.step,
                store_id=o.store_id,
                topic=o.topic,
                partition=o.partition,
                group=o.group,
                joining=tuple(o.joining),
                leaving=tuple(o.leaving),
                replicas_left=o.replicas_left,
                bytes_left=o.bytes_left,
                problems=tuple(o.problems),
                bytes_moved=o.bytes_moved,
                lasts_ms=o.lasts_ms,
            )
            for o in answer.operations
        ]

    async def cancel_operation(self, operation: str) -> None:
        """A decommission is taken back, an operator's move turned back.  Raises InvalidArgument where there is nothing to cancel."""
        arguments.text("operation", operation)
        await self._write("CancelOperation", pb.CancelOperationRequest(id=operation))

    async def _read(self, method: str, request: Any) -> Any:
        self._client.check_open()
        return await self._nameservers.call(method, request, READ_TIMEOUT_S)

    async def _write(self, method: str, request: Any) -> Any:
        self._client.check_open()
        return await self._nameservers.call(method, request, WRITE_TIMEOUT_S)


def _moves(answer: Any) -> tuple[PlannedMove, ...]:
    return tuple(
        PlannedMove(m.topic, m.partition, m.group, m.from_store_id, m.to_store_id, m.log_bytes) for m in answer.moves
    )
