"""Another replica leads a partition: by an operator's word, or because its store leads too few.

Guarantee: the replica that leads hands over once the other one holds everything, so that no write fails for it but for those that are under
way at that moment, which are tried again.  Leaders are evened out a few at a time, and only while ZooKeeper and the stores are heard; what
leader_balance.py decides by is this nameserver's alone, and the next one that leads begins to look anew.
"""

from __future__ import annotations

import asyncio

import structlog

from stele.nameserver.catalog import Member
from stele.nameserver.clusterview import ClusterView
from stele.nameserver.effects import TransferLeadership
from stele.nameserver.leader_balance import LeaderBalanceLimits, Steadiness, even_out
from stele.nameserver.reconcile import led_by, successors
from stele.nameserver.replicas import ReplicaOrders
from stele.services.errors import GroupNotFound, InvalidArgument, NotReady, SteleError
from stele.services.tasks import Tasks

SEEN_WITHIN_S = 2.0
LOOK_INTERVAL_S = 1.0
LOOK_SHARE = 0.005  # of the time may go into looking

_log = structlog.get_logger()


class LeaderTransfers:
    """One per term of office."""

    def __init__(self, view: ClusterView, orders: ReplicaOrders, limits: LeaderBalanceLimits) -> None:
        self._view, self._orders, self._limits = view, orders, limits
        self._steady = Steadiness(limits.after_s)
        self._look_at = 0.0
        self._under_way = 0
        self._tasks = Tasks()

    async def stop(self) -> None:
        await self._tasks.cancel()

    async def transfer(self, group: int, to: int) -> tuple[int, int]:
        """The stores that led before and lead now; the same where ``to`` led already.  ``to`` 0: whichever leads the fewest.

        GroupNotFound; InvalidArgument: ``to`` holds no replica that counts; NotReady: there is no leader, ``to`` does not follow it now, or
        another one was elected meanwhile."""
        seen = self._view.current
        partition = seen.catalog.partitions.get(group)
        topic = seen.catalog.topic_of(partition) if partition is not None else None
        if partition is None or topic is None:
            raise GroupNotFound(f"group {group} is not recorded", group=group)
        if to and to not in partition.wanted:
            named = ", ".join(map(str, partition.wanted))
            raise InvalidArgument(
                f"to_store: store {to} is to hold no replica of group {group}; stores {named} are", group=group
            )
        leader = seen.leaders.get(group)
        member = seen.catalog.live_stores.get(leader.store_id) if leader is not None else None
        if leader is None or member is None or not leader.confirmed or not seen.reports[leader.store_id].holds(group):
            raise NotReady(f"group {group} has no leader at this moment", group=group)
        self._steady.hold(group)
        if to == leader.store_id:
            return to, to
        able = successors(partition, leader.store_id, seen.catalog, seen.reports, led_by(seen.leaders))
        if not able or (to and to not in able):
            which = f"store {to} does not follow" if to else "no other replica follows"
            raise NotReady(
                f"{which} the leader of group {group} as a voter on a store that is up, ready and with room",
                group=group,
            )
        successor = to or able[0]
        await self._hand_over(member, TransferLeadership(leader.store_id, group, topic.topic_id, successor, "operator"))
        _log.info("leader_transferred", group=group, store=successor, former=leader.store_id)
        return leader.store_id, successor

    def even_out(self) -> None:
        """Begins what is due, unless what was begun before is still under way.  Called while ZooKeeper is in step."""
        now_s = asyncio.get_running_loop().time()
        if not self._limits.after_s or now_s < self._look_at:
            return
        view = self._view.current
        begin = asyncio.get_running_loop().time()
        groups, stores = self._steady.look(view.catalog, view.reports, view.leaders, now_s)
        # The longer a look takes, the more seldom: what is uneven can wait, and look-ups cannot.
        self._look_at = now_s + max(LOOK_INTERVAL_S, (asyncio.get_running_loop().time() - begin) / LOOK_SHARE)
        if self._under_way:
            return
        due = even_out(view.catalog, view.reports, view.leaders, groups, stores, self._limits.transfers_max)
        for order in due:
            if (member := view.catalog.live_stores.get(order.store_id)) is not None:
                self._under_way += 1
                self._tasks.start(self._even_out(member, order), f"transfer-leader-{order.group}")

    def out_of_step(self) -> None:
        """For a time nothing is known of who led what."""
        self._steady.forget()

    async def _even_out(self, member: Member, order: TransferLeadership) -> None:
        self._steady.transferred(order.group)
        try:
            await self._hand_over(member, order)
            _log.info("leader_evened_out", group=order.group, store=order.successor, former=order.store_id)
        except SteleError as e:
            _log.info(
                "leader_not_evened_out", group=order.group, store=order.successor, reason=e.reason, error=e.message
            )
        finally:
            self._under_way -= 1

    async def _hand_over(self, member: Member, order: TransferLeadership) -> None:
        """Returns once the view shows it.  NotReady: another one leads, or nobody yet."""
        group, successor = order.group, order.successor
        await self._orders.give(member, order)
        deadline = asyncio.get_running_loop().time() + SEEN_WITHIN_S
        await self._view.until(
            lambda v: (now := v.leaders.get(group)) is not None and now.store_id == successor, deadline
        )
        now = self._view.current.leaders.get(group)
        if now is None or now.store_id != successor:
            raise NotReady(
                f"store {order.store_id} leads group {group} no more, and store {successor} not yet", group=group
            )
