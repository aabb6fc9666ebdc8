"""Datanodes for tests of the broker: real gRPC servers over the real partition state machine, with the log in memory and replication
assumed instead of done, so that a test can choose at the wire what goes wrong and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import takewhile
from typing import Any

from stele.datanode import commands
from stele.datanode.commands import (
    EARLIEST,
    LATEST,
    Appended,
    AppendOutcome,
    CursorOutcome,
    DeleteOutcome,
    FenceOutcome,
    Position,
    Refused,
    Start,
)
from stele.datanode.partition import PartitionState
from stele.services.batch import decode, read_header
from stele.services.errors import GroupNotFound, LogDamaged, NotLeader, NotReady, OffsetOutOfRange, SteleError
from stele.services.pb import datanode_pb2 as pb
from stele.services.pb import datanode_pb2_grpc
from stele.services.rpc.servers import Server
from stele.services.rpc.status import to_wire


class Group:
    """One partition; every entry is committed and applied everywhere the moment it is proposed to the leader."""

    def __init__(self, group_id: int, stores: tuple[int, ...], partition: PartitionState) -> None:
        self.id = group_id
        self.stores = stores
        self.leader = stores[0]  # 0: none
        self.partition = partition
        self.entries = 0
        self.stored: list[pb.StoredBatch] = []

    def append(self, owner_epoch: int, batches: Sequence[bytes]) -> object:
        outcome = self.propose(commands.encode_append(owner_epoch, batches))
        if isinstance(outcome, AppendOutcome):
            for batch, result in zip(batches, outcome.results, strict=True):
                if isinstance(result, Appended) and not result.duplicate:
                    self.stored.append(pb.StoredBatch(base_offset=result.base_offset, batch=batch))
        return outcome

    def propose(self, payload: bytes) -> object:
        self.entries += 1
        return self.partition.apply(self.entries, 1, payload)

    def trim(self, log_start: int) -> None:
        """Retention has removed everything below."""
        self.propose(commands.encode(commands.Trim(log_start)))

    def read(self, offset: int, bytes_max: int) -> list[pb.StoredBatch]:
        found: list[pb.StoredBatch] = []
        for stored in self.stored:
            if stored.base_offset + read_header(stored.batch).record_count > offset:
                if found and sum(len(s.batch) for s in found) + len(stored.batch) > bytes_max:
                    break
                found.append(stored)
        return found

    def values(self) -> list[bytes]:
        """Everything stored, in order."""
        return [record.value for s in self.stored for record in decode(s.batch)]


class InMemoryDatanode(datanode_pb2_grpc.DatanodeServicer):
    """One store.  ``frozen``: takes requests and says nothing.  ``before_append`` and ``after_append`` run around an append being
    applied, with the request: what they raise breaks the stream.  ``lags``: its copy of the log is empty.  ``damaged``: offsets that
    cannot be read from its copy.  ``quarantined``: it has no replica to show for what it was given."""

    def __init__(self, store_id: int, groups: dict[int, Group]) -> None:
        self.store_id = store_id
        self.groups = groups
        self.frozen = False
        self.lags = False
        self.damaged: range = range(0)
        self.quarantined = False
        self.thawed = asyncio.Event()
        self.before_append: Callable[[pb.AppendRequest], None] = lambda _: None
        self.after_append: Callable[[pb.AppendRequest], None] = lambda _: None
        self.hold_acks = asyncio.Event()
        self.hold_acks.set()
        self.hold_resets = asyncio.Event()  # they are applied at once, and answered once this is set
        self.hold_resets.set()
        self.acks = 0
        self.cursors_max = 1_000  # of one answer
        self.lists = 0
        self.fails_acks = 0  # how many AckCursor calls are applied without an answer
        self.appends: list[pb.AppendRequest] = []
        self.fetches = 0
        self.server: Server | None = None
        self.port = 0

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.server = Server("127.0.0.1", self.port)
        self.server.add(datanode_pb2_grpc.add_DatanodeServicer_to_server, self, "stele.v1.Datanode")
        self.port = await self.server.start()

    async def kill(self) -> None:
        """Its connections break at once, its port refuses."""
        assert self.server is not None
        await self.server.stop(0)

    def freeze(self) -> None:
        self.frozen = True
        self.thawed.clear()

    def thaw(self) -> None:
        self.frozen = False
        self.thawed.set()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _awake(self) -> None:
        while self.frozen:
            await self.thawed.wait()

    def _replica(self, group_id: int) -> Group:
        group = self.groups.get(group_id)
        if group is None or self.store_id not in group.stores:
            raise GroupNotFound(f"no group {group_id} here")
        if self.quarantined:
            raise LogDamaged(f"group {group_id} is quarantined here", group=group_id)
        return group

    def _led(self, group_id: int) -> Group:
        group = self._replica(group_id)
        if group.leader != self.store_id:
            raise NotLeader("not the leader", leader=group.leader or None)
        return group

    # --- the service ----------------------------------------------------------------------------------------------

    async def Append(self, requests: AsyncIterator[pb.AppendRequest], context: Any) -> AsyncIterator[pb.AppendResponse]:
        async for request in requests:
            await self._awake()
            self.appends.append(request)
            self.before_append(request)
            try:
                group = self._led(request.group)
                outcome = group.append(request.owner_epoch, request.batches)
            except SteleError as e:
                yield pb.AppendResponse(request_id=request.request_id, error=to_wire(e))
                continue
            self.after_append(request)
            await self._awake()
            if isinstance(outcome, Refused):
                yield pb.AppendResponse(request_id=request.request_id, error=to_wire(outcome.error()))
                continue
            assert isinstance(outcome, AppendOutcome)
            yield pb.AppendResponse(request_id=request.request_id, results=[_result(r) for r in outcome.results])

    async def Fetch(self, requests: AsyncIterator[pb.FetchRequest], context: Any) -> AsyncIterator[pb.FetchResponse]:
        async for request in requests:
            await self._awake()
            self.fetches += 1
            try:
                partition = self._replica(request.group).partition
                if request.offset < partition.log_start:
                    raise OffsetOutOfRange("no longer kept", offset=request.offset, earliest=partition.log_start)
                if request.offset in self.damaged:
                    raise LogDamaged("damaged here", first=self.damaged[0], last=self.damaged[-1])
            except SteleError as e:
                yield pb.FetchResponse(request_id=request.request_id, error=to_wire(e))
                continue
            found = [] if self.lags else self.groups[request.group].read(request.offset, request.bytes_max)
            found = list(takewhile(lambda stored: stored.base_offset not in self.damaged, found))
            yield pb.FetchResponse(
                request_id=request.request_id,
                batches=found,
                log_start_offset=partition.log_start,
                high_watermark=0 if self.lags else partition.high_watermark,
            )

    async def Fence(self, request: pb.FenceRequest, context: Any) -> pb.FenceResponse:
        outcome = await self._propose(request.group, commands.FenceOwner(request.owner_epoch))
        assert isinstance(outcome, FenceOutcome)
        return pb.FenceResponse(high_watermark=outcome.high_watermark, log_start_offset=outcome.log_start)

    async def CreateCursor(self, request: pb.CreateCursorRequest, context: Any) -> pb.CursorResponse:
        command = commands.CreateCursor(request.owner_epoch, request.subscription, _position(request))
        return self._cursor(request.group, await self._propose(request.group, command))

    async def AckCursor(self, request: pb.AckCursorRequest, context: Any) -> pb.CursorResponse:
        await self.hold_acks.wait()
        self.acks += 1
        ranges = tuple((r.first, r.last) for r in request.ranges)
        redelivered = tuple((r.first, r.last, r.count) for r in request.redelivered)
        command = commands.Ack(request.owner_epoch, request.subscription, request.generation, ranges, redelivered)
        outcome = await self._propose(request.group, command)
        if self.fails_acks > 0:
            self.fails_acks -= 1
            raise NotReady("applied, but nobody is told")
        return self._cursor(request.group, outcome)

    async def ResetCursor(self, request: pb.ResetCursorRequest, context: Any) -> pb.CursorResponse:
        command = commands.ResetCursor(request.owner_epoch, request.subscription, _position(request))
        outcome = await self._propose(request.group, command)
        await self.hold_resets.wait()
        return self._cursor(request.group, outcome)

    async def DeleteCursor(self, request: pb.DeleteCursorRequest, context: Any) -> pb.DeleteCursorResponse:
        command = commands.DeleteCursor(request.owner_epoch, request.subscription)
        outcome = await self._propose(request.group, command)
        assert isinstance(outcome, DeleteOutcome)
        return pb.DeleteCursorResponse(existed=outcome.existed)

    async def ListCursors(self, request: pb.ListCursorsRequest, context: Any) -> pb.ListCursorsResponse:
        await self._awake()
        partition = self._led(request.group).partition
        self.lists += 1
        names = sorted(name for name in partition.cursors if name > request.after)
        return pb.ListCursorsResponse(
            cursors=[_cursor_of(partition, name) for name in names[: self.cursors_max]],
            more=len(names) > self.cursors_max,
            high_watermark=partition.high_watermark,
            log_start_offset=partition.log_start,
        )

    async def Probe(self, request: pb.ProbeRequest, context: Any) -> pb.ProbeResponse:
        await self._awake()
        partition = self._led(request.group).partition
        return pb.ProbeResponse(term=1, high_watermark=partition.high_watermark, log_start_offset=partition.log_start)

    async def _propose(self, group_id: int, command: Any) -> object:
        await self._awake()
        outcome = self._led(group_id).propose(commands.encode(command))
        if isinstance(outcome, Refused):
            raise outcome.error()
        return outcome

    def _cursor(self, group_id: int, outcome: object) -> pb.CursorResponse:
        assert isinstance(outcome, CursorOutcome)
        cursor = _cursor_of(self.groups[group_id].partition, outcome.subscription)
        return pb.CursorResponse(cursor=cursor, created=outcome.created)


def _result(result: Appended | Refused) -> pb.AppendResult:
    if isinstance(result, Refused):
        return pb.AppendResult(error=to_wire(result.error()))
    return pb.AppendResult(base_offset=result.base_offset, duplicate=result.duplicate)


def _cursor_of(partition: PartitionState, name: str) -> pb.Cursor:
    cursor = partition.cursors[name]
    return pb.Cursor(
        subscription=name,
        ack_floor=cursor.ack_floor,
        acked=[pb.OffsetRange(first=first, last=last) for first, last in cursor.ranges],
        generation=cursor.generation,
        redelivered=[pb.Redelivered(first=a, last=b, count=n) for a, b, n in cursor.redeliveries.ranges],
    )


def _position(request: pb.CreateCursorRequest | pb.ResetCursorRequest) -> Position:
    match request.WhichOneof("start"):
        case "offset":
            return Position(Start.OFFSET, request.offset)
        case "earliest":
            return EARLIEST
        case "latest":
            return LATEST
    assert isinstance(request, pb.ResetCursorRequest)
    return Position(Start.TIMESTAMP, request.timestamp_ms)
