"""Tells the datanodes which replicas to create and delete, who counts in their groups, and what their topics' settings are.

Guarantee: a store has at most one batch of orders in work, so that a store that hangs delays nobody else; every order carries the cluster,
the leader's epoch, the id of the store that it is meant for (R2.5) and that of the topic, so that a deposed leader's orders, and those
that are meant for something else, are refused there.  An order that was carried out is not repeated before the store had time to
report it; a store that failed is left alone for ``RETRY_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog

from stele.nameserver.catalog import Member
from stele.nameserver.effects import (
    ChangeMember,
    ConfigureReplica,
    CreateReplica,
    DeleteReplica,
    MemberRole,
    TellHighWater,
    TellRemoved,
    TransferLeadership,
)
from stele.services.errors import InternalError, NotReady, SteleError
from stele.services.high_water import NOTHING_TOLD, HighWater
from stele.services.pb import datanode_pb2, datanode_pb2_grpc
from stele.services.rpc.channels import Channels, call
from stele.services.tasks import Tasks

ORDER_TIMEOUT_S = 5.0
ORDERS_AT_ONCE_MAX = 16
RETRY_S = 1.0
REPORT_DELAY_S = 1.0

Order = (
    CreateReplica | ConfigureReplica | DeleteReplica | ChangeMember | TransferLeadership | TellHighWater | TellRemoved
)

_ROLES = {
    MemberRole.NONE: datanode_pb2.MEMBER_ROLE_NONE,
    MemberRole.LEARNER: datanode_pb2.MEMBER_ROLE_LEARNER,
    MemberRole.VOTER: datanode_pb2.MEMBER_ROLE_VOTER,
}

_log = structlog.get_logger()


class ReplicaOrders:
    """``submit(orders, members)`` starts what is not in work yet; ``done()`` is called when a store has worked off its batch."""

    def __init__(self, channels: Channels, cluster_id: str, epoch: int, done: Callable[[], None]) -> None:
        self._channels, self._cluster_id, self._epoch, self._done = channels, cluster_id, epoch, done
        self._working: dict[int, asyncio.Task[None]] = {}
        self._completed: dict[Order, float] = {}
        self._retry_at: dict[int, float] = {}
        self._tasks = Tasks()
        self._failures: dict[int, SteleError] = {}
        self._told = NOTHING_TOLD.message()

    def submit(self, orders: Iterable[Order], members: Mapping[int, Member], told: HighWater = NOTHING_TOLD) -> None:
        """``told``: how far the metadata has come; every order carries it."""
        self._told = told.message()
        now = asyncio.get_running_loop().time()
        self._completed = {order: at for order, at in self._completed.items() if at > now - REPORT_DELAY_S}
        by_store: dict[int, list[Order]] = {}
        for order in orders:
            if order not in self._completed:
                by_store.setdefault(order.store_id, []).append(order)
        for store_id, batch in by_store.items():
            member = members.get(store_id)
            if member is None or store_id in self._working or self._retry_at.get(store_id, 0.0) > now:
                continue
            self._working[store_id] = self._tasks.start(self._work(member, batch), f"orders-{member.name}")

    def last_failure(self, stores: Iterable[int]) -> tuple[int, SteleError] | None:
        """A store that could not carry out its last batch, and why."""
        return next(((s, self._failures[s]) for s in stores if s in self._failures), None)

    async def stop(self) -> None:
        await self._tasks.cancel()

    async def _work(self, member: Member, batch: list[Order]) -> None:
        places = asyncio.Semaphore(ORDERS_AT_ONCE_MAX)

        async def one(order: Order) -> SteleError | None:
            async with places:
                try:
                    await self.give(member, order)
                except SteleError as e:
                    return e
                except Exception as e:  # of ours: as an order that failed, it is told, and given again after a while
                    _log.error("replica_order_failed", store=member.store_id, exc_info=e)
                    return InternalError(f"{type(order).__name__} for store {member.store_id}: {e!r}")
            self._completed[order] = asyncio.get_running_loop().time()
            return None

        try:
            outcomes = await asyncio.gather(*map(one, batch))
        finally:
            self._working.pop(member.store_id, None)
        failures = [e for e in outcomes if e is not None]
        if failures:
            self._retry_at[member.store_id] = asyncio.get_running_loop().time() + RETRY_S
            known = self._failures.get(member.store_id)
            if known is None or known.reason != failures[0].reason:
                waits = all(isinstance(e, NotReady) for e in failures)  # a step that comes too early is no trouble
                (_log.info if waits else _log.warning)(
                    "replica_orders_failed",
                    store=member.store_id,
                    node=member.name,
                    failed=len(failures),
                    of=len(batch),
                    reason=failures[0].reason,
                    error=failures[0].message,
                )
            self._failures[member.store_id] = failures[0]
        else:
            self._failures.pop(member.store_id, None)
            _log.info("replica_orders_done", store=member.store_id, node=member.name, orders=len(batch))
        self._done()

    async def give(self, member: Member, order: Order) -> None:
        """At once, and raises what the store says."""
        stub: Any = datanode_pb2_grpc.DatanodeStub(self._channels.get(member.endpoint))  # type: ignore[no-untyped-call]
        if isinstance(order, CreateReplica):
            request = datanode_pb2.CreateReplicaRequest(
                group=order.group,
                topic=order.topic,
                partition=order.partition,
                store_ids=order.replicas,
                leader_epoch=self._epoch,
                to_store_id=order.store_id,
                retention=order.retention.message(),
                topic_id=order.topic_id,
                cluster_id=self._cluster_id,
                told=self._told,
                joins=not order.replicas,
            )
            await call(stub.CreateReplica, request, ORDER_TIMEOUT_S)
        elif isinstance(order, ChangeMember):
            step = datanode_pb2.ChangeMemberRequest(
                group=order.group,
                topic_id=order.topic_id,
                store_id=order.member,
                role=_ROLES[order.role],
                lost=order.lost,
                leader_epoch=self._epoch,
                to_store_id=order.store_id,
                cluster_id=self._cluster_id,
                told=self._told,
            )
            await call(stub.ChangeMember, step, ORDER_TIMEOUT_S)
        elif isinstance(order, ConfigureReplica):
            change = datanode_pb2.ConfigureReplicaRequest(
                group=order.group,
                leader_epoch=self._epoch,
                to_store_id=order.store_id,
                retention=order.retention.message(),
                topic_id=order.topic_id,
                cluster_id=self._cluster_id,
                told=self._told,
            )
            await call(stub.ConfigureReplica, change, ORDER_TIMEOUT_S)
        elif isinstance(order, TransferLeadership):
            handover = datanode_pb2.TransferLeadershipRequest(
                group=order.group,
                topic_id=order.topic_id,
                successor=order.successor,
                leader_epoch=self._epoch,
                to_store_id=order.store_id,
                cluster_id=self._cluster_id,
                told=self._told,
                cause=order.cause,
            )
            await call(stub.TransferLeadership, handover, ORDER_TIMEOUT_S)
        elif isinstance(order, TellRemoved):
            removal = datanode_pb2.TellRemovedRequest(
                leader_epoch=self._epoch, to_store_id=order.store_id, cluster_id=self._cluster_id, told=self._told
            )
            await call(stub.TellRemoved, removal, ORDER_TIMEOUT_S)
        elif isinstance(order, TellHighWater):
            news = datanode_pb2.TellHighWaterRequest(
                leader_epoch=self._epoch,
                to_store_id=order.store_id,
                cluster_id=self._cluster_id,
                told=order.told.message(),
            )
            await call(stub.TellHighWater, news, ORDER_TIMEOUT_S)
        else:
            deletion = datanode_pb2.DeleteReplicaRequest(
                group=order.group,
                leader_epoch=self._epoch,
                to_store_id=order.store_id,
                topic_id=order.topic_id,
                cluster_id=self._cluster_id,
                told=self._told,
            )
            await call(stub.DeleteReplica, deletion, ORDER_TIMEOUT_S)
