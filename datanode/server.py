"""The datanode's gRPC service: what brokers and nameservers ask of a store (proto/stele/v1/datanode.proto).

Guarantee: every call ends within its deadline in an answer or a typed error; a call that changes something answers
after the change is committed, and says Timeout or ProposalLost (indefinite) where that is not known.  A replica that is
not ready says so (R4.7).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from stele.datanode import commands
from stele.datanode.append import AppendStream
from stele.datanode.commands import (
    ACK_RANGES_MAX,
    EARLIEST,
    LATEST,
    REDELIVERED_RANGES_MAX,
    CursorOutcome,
    DeleteOutcome,
    FenceOutcome,
    Position,
    Refused,
    Start,
)
from stele.datanode.directory import GroupSpec
from stele.datanode.fetch import FetchStream
from stele.datanode.metrics import DatanodeMetrics
from stele.datanode.replica import Replica
from stele.datanode.store import Mandate, Store
from stele.datanode.trash import Trash
from stele.datanode.watch import watch
from stele.services.errors import InvalidArgument, NotLeader, StorageFailed, StoreMismatch, Timeout
from stele.services.high_water import HighWater
from stele.services.pb import datanode_pb2 as pb
from stele.services.pb import datanode_pb2_grpc
from stele.services.raft import membership
from stele.services.rpc.servers import left_s
from stele.services.tasks import to_its_end, unheard
from stele.services.topics import FOR_EVER, check_name, check_retention, parse_topic

PROPOSAL_TIMEOUT_S = 10.0
CURSORS_BYTES_MAX = 1 << 20  # of one answer; a single cursor that is larger goes alone

_Order = (
    pb.CreateReplicaRequest
    | pb.ConfigureReplicaRequest
    | pb.DeleteReplicaRequest
    | pb.TellHighWaterRequest
    | pb.ChangeMemberRequest
    | pb.TransferLeadershipRequest
    | pb.TellRemovedRequest
)
_ROLES = {
    pb.MEMBER_ROLE_NONE: membership.without,
    pb.MEMBER_ROLE_LEARNER: membership.with_learner,
    pb.MEMBER_ROLE_VOTER: membership.with_voter,
}

_CAUSES = frozenset({"operator", "balance", "move"})  # of transfers

_CursorRequest = pb.CreateCursorRequest | pb.ResetCursorRequest


class DatanodeServicer(datanode_pb2_grpc.DatanodeServicer):
    """Serves one store, and says what is in its ``trash``."""

    def __init__(self, store: Store, metrics: DatanodeMetrics, trash: Trash) -> None:
        self._store, self._trash = store, trash
        self._metrics = metrics

    # --- messages ---------------------------------------------------------------------------------------------------

    async def Append(
        self, request_iterator: AsyncIterator[pb.AppendRequest], context: Any
    ) -> AsyncIterator[pb.AppendResponse]:
        async with aclosing(
            AppendStream(self._store.replica, applied=self._metrics.applied).run(request_iterator)
        ) as answers:
            async for answer in answers:
                self._metrics.appended(answer)
                yield answer

    async def Fetch(
        self, request_iterator: AsyncIterator[pb.FetchRequest], context: Any
    ) -> AsyncIterator[pb.FetchResponse]:
        async with aclosing(FetchStream(self._store.replica).run(request_iterator)) as answers:
            async for answer in answers:
                self._metrics.fetched(answer)
                yield answer

    async def Fence(self, request: pb.FenceRequest, context: Any) -> pb.FenceResponse:
        outcome = await self._propose(request.group, commands.FenceOwner(request.owner_epoch), context)
        assert isinstance(outcome, FenceOutcome)
        return pb.FenceResponse(high_watermark=outcome.high_watermark, log_start_offset=outcome.log_start)

    # --- cursors ----------------------------------------------------------------------------------------------------

    async def CreateCursor(self, request: pb.CreateCursorRequest, context: Any) -> pb.CursorResponse:
        name = check_name("subscription", request.subscription)
        command = commands.CreateCursor(request.owner_epoch, name, _position(request))
        return self._cursor(request.group, await self._propose(request.group, command, context))

    async def AckCursor(self, request: pb.AckCursorRequest, context: Any) -> pb.CursorResponse:
        name = check_name("subscription", request.subscription)
        if len(request.ranges) > ACK_RANGES_MAX:
            raise InvalidArgument(f"{len(request.ranges)} ranges; accepted: up to {ACK_RANGES_MAX}")
        if len(request.redelivered) > REDELIVERED_RANGES_MAX or not all(r.count for r in request.redelivered):
            raise InvalidArgument(
                f"{len(request.redelivered)} counts of redeliveries; accepted: up to {REDELIVERED_RANGES_MAX}, each above 0"
            )
        ranges = tuple((r.first, r.last) for r in request.ranges)
        redelivered = tuple((r.first, r.last, r.count) for r in request.redelivered)
        command = commands.Ack(request.owner_epoch, name, request.generation, ranges, redelivered)
        return self._cursor(request.group, await self._propose(request.group, command, context))

    async def ResetCursor(self, request: pb.ResetCursorRequest, context: Any) -> pb.CursorResponse:
        name = check_name("subscription", request.subscription)
        command = commands.ResetCursor(request.owner_epoch, name, _position(request))
        return self._cursor(request.group, await self._propose(request.group, command, context))

    async def DeleteCursor(self, request: pb.DeleteCursorRequest, context: Any) -> pb.DeleteCursorResponse:
        name = check_name("subscription", request.subscription)
        outcome = await self._propose(request.group, commands.DeleteCursor(request.owner_epoch, name), context)
        assert isinstance(outcome, DeleteOutcome)
        return pb.DeleteCursorResponse(existed=outcome.existed)

    async def ListCursors(self, request: pb.ListCursorsRequest, context: Any) -> pb.ListCursorsResponse:
        replica = self._store.replica(request.group)
        replica.current()
        partition = replica.partition
        response = pb.ListCursorsResponse(high_watermark=partition.high_watermark, log_start_offset=partition.log_start)
        size = 0
        for name in sorted(name for name in partition.cursors if name > request.after):
            cursor = _cursor_of(replica, name)
            size += cursor.ByteSize()
            if response.cursors and size > CURSORS_BYTES_MAX:
                response.more = True
                break
            response.cursors.append(cursor)
        return response

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:
        replica = self._store.replica(request.group)
        group = replica.current()
        if group.successor:  # whoever took this for the leader would be refused
            raise NotLeader(f"group {request.group} is on its way to store {group.successor}", leader=group.successor)
        return pb.ProbeResponse(
            term=group.term,
            high_watermark=replica.partition.high_watermark,
            log_start_offset=replica.partition.log_start,
        )

    def _cursor(self, group: int, outcome: object) -> pb.CursorResponse:
        assert isinstance(outcome, CursorOutcome)
        replica = self._store.replicas.get(group)
        cursor = replica.partition.cursor(outcome.subscription) if replica is not None else None
        if replica is None or cursor is None or cursor.generation != outcome.generation:
            # Reset or deleted since: what this command came to is answered without ranges.
            answer = pb.Cursor(
                subscription=outcome.subscription, ack_floor=outcome.ack_floor, generation=outcome.generation
            )
        else:
            answer = _cursor_of(replica, outcome.subscription)
        return pb.CursorResponse(cursor=answer, created=outcome.created)

    async def _propose(self, group: int, command: commands.OwnerCommand, context: Any) -> object:
        """The outcome of ``command``, committed.  Raises what refused it; Timeout once the caller's deadline is
        near."""
        timeout_s = min(PROPOSAL_TIMEOUT_S, left_s(context, PROPOSAL_TIMEOUT_S))
        proposal = self._store.replica(group).propose(command)
        proposal.add_done_callback(unheard)  # BEFORE the wait: the call may be given up in it
        done, _ = await asyncio.wait({proposal}, timeout=timeout_s)
        if not done:
            raise Timeout(f"group {group} gave no outcome within {timeout_s:.3g} s", timeout_s=timeout_s)
        outcome = proposal.result()
        if isinstance(outcome, Refused):
            raise outcome.error()
        return outcome

    # --- replicas ---------------------------------------------------------------------------------------------------

    async def CreateReplica(self, request: pb.CreateReplicaRequest, context: Any) -> pb.CreateReplicaResponse:
        parse_topic(request.topic)
        if request.group == 0 or request.topic_id == 0:
            raise InvalidArgument("the ids of a group and of its topic are not 0")
        retention = check_retention(FOR_EVER.changed_by(request.retention))
        if request.joins == bool(request.store_ids):
            raise InvalidArgument(
                "the members of a new group, or that the replica joins one that exists: one of the two"
            )
        spec = GroupSpec(
            request.group,
            request.topic,
            request.partition,
            tuple(request.store_ids),
            retention,
            request.topic_id,
        )
        created = await to_its_end(self._store.create(spec, _mandate(request)))
        return pb.CreateReplicaResponse(created=created)

    async def ConfigureReplica(self, request: pb.ConfigureReplicaRequest, context: Any) -> pb.ConfigureReplicaResponse:
        retention = check_retention(FOR_EVER.changed_by(request.retention))
        change = self._store.configure(request.group, request.topic_id, retention, _mandate(request))
        return pb.ConfigureReplicaResponse(changed=await to_its_end(change))

    async def DeleteReplica(self, request: pb.DeleteReplicaRequest, context: Any) -> pb.DeleteReplicaResponse:
        existed = await to_its_end(self._store.delete(request.group, request.topic_id, _mandate(request)))
        return pb.DeleteReplicaResponse(existed=existed)

    async def TellHighWater(self, request: pb.TellHighWaterRequest, context: Any) -> pb.TellHighWaterResponse:
        await to_its_end(self._store.tell(_mandate(request)))
        return pb.TellHighWaterResponse()

    async def ChangeMember(self, request: pb.ChangeMemberRequest, context: Any) -> pb.ChangeMemberResponse:
        role = _ROLES.get(request.role)
        if role is None or request.store_id == 0:
            raise InvalidArgument(f"store {request.store_id} cannot get the role {request.role}")
        change = self._store.change_member(
            request.group, request.topic_id, request.store_id, role, _mandate(request), request.lost
        )
        return pb.ChangeMemberResponse(changed=await to_its_end(change))

    async def TransferLeadership(
        self, request: pb.TransferLeadershipRequest, context: Any
    ) -> pb.TransferLeadershipResponse:
        if request.successor in (0, request.to_store_id):
            raise InvalidArgument(f"store {request.to_store_id} cannot hand over to store {request.successor}")
        cause = request.cause if request.cause in _CAUSES else ""
        handover = self._store.hand_over(request.group, request.topic_id, request.successor, _mandate(request), cause)
        return pb.TransferLeadershipResponse(transferred=await to_its_end(handover))

    async def TellRemoved(self, request: pb.TellRemovedRequest, context: Any) -> pb.TellRemovedResponse:
        await to_its_end(self._store.removed(_mandate(request)))
        return pb.TellRemovedResponse()

    async def ReadTrash(self, request: pb.ReadTrashRequest, context: Any) -> pb.ReadTrashResponse:
        if request.to_store_id != self._store.store_id:
            raise StoreMismatch(
                f"this is store {self._store.store_id}, not {request.to_store_id}",
                expected=request.to_store_id,
                got=self._store.store_id,
            )
        try:
            return pb.ReadTrashResponse(replicas=await self._trash.listed())
        except OSError as e:
            raise StorageFailed(f"the trash cannot be listed: {e}") from e

    async def WatchStore(self, request: pb.WatchStoreRequest, context: Any) -> AsyncIterator[pb.StoreStatus]:
        had = request.events_after if request.events_of == self._store.events.life else 0
        async with aclosing(watch(self._store, had)) as statuses:
            async for status in statuses:
                yield status


def _mandate(order: _Order) -> Mandate:
    return Mandate(order.cluster_id, order.leader_epoch, order.to_store_id, HighWater.of(order.told))


def _position(request: _CursorRequest) -> Position:
    match request.WhichOneof("start"):
        case "offset":
            return Position(Start.OFFSET, request.offset)
        case "earliest":
            return EARLIEST
        case "latest":
            return LATEST
        case "timestamp_ms":
            assert isinstance(request, pb.ResetCursorRequest)
            return Position(Start.TIMESTAMP, request.timestamp_ms)
    raise InvalidArgument("where the cursor begins is missing: an offset, earliest or latest")


def _cursor_of(replica: Replica, name: str) -> pb.Cursor:
    cursor = replica.partition.cursors[name]
    return pb.Cursor(
        subscription=name,
        ack_floor=cursor.ack_floor,
        acked=[pb.OffsetRange(first=first, last=last) for first, last in cursor.ranges],
        generation=cursor.generation,
        redelivered=[pb.Redelivered(first=a, last=b, count=n) for a, b, n in cursor.redeliveries.ranges],
    )
