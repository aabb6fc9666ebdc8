"""The leader's moves of replicas, and the stores that go: what operators ask for, and what is begun without being asked.

Guarantee: what was asked for is recorded when a call returns, and from then on the next leader goes on with it as this one does; a store
is taken out of service only while as many others are up as the highest replication needs (R2.7), and becomes a tombstone only once
ZooKeeper itself says that no partition counts it any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

from stele.nameserver import replica_balance
from stele.nameserver.absence import Absence
from stele.nameserver.catalog import Catalog, StoreEntry, StoreState, TopicState, removed, unknown
from stele.nameserver.effects import DeleteLeft, RecordArrived, RecordExtra, RecordGone, RecordLeft
from stele.nameserver.move_writer import MoveWriter, operator_move
from stele.nameserver.moves import (
    SHARES_RACK,
    BeginMove,
    Cause,
    EnterTombstone,
    MoveLimits,
    MovePlan,
    as_if_offline,
    check_may_go,
    due,
    hindrance,
    left_on,
    log_bytes,
    plan_moves,
    requires_racks,
    shares_rack,
)
from stele.nameserver.operations import REBALANCE, parse_id
from stele.nameserver.replica_balance import EndRebalance, plan_balance, waits_for
from stele.nameserver.resizing import due_resizes, is_any_unsettled
from stele.nameserver.view import View
from stele.services.coordination.records import StoreRecord
from stele.services.errors import GroupNotFound, InvalidArgument, NotReady, StoreTombstone, StoreUnknown
from stele.services.wording import counted

MIRRORED_WITHIN_S = 1.0
_log = structlog.get_logger()

RecordEffect = BeginMove | EnterTombstone | EndRebalance | RecordLeft | RecordArrived | RecordExtra | RecordGone


class Relocation:
    """One per term of office."""

    def __init__(
        self,
        writer: MoveWriter,
        view: Callable[[], View],
        mirrored: Callable[[Callable[[Catalog], bool]], Awaitable[None]],
        turn: asyncio.Lock,
        limits: MoveLimits = MoveLimits(),
        store_down_after_s: float = 300.0,
        behind: Callable[[BeginMove], str] = lambda move: "",
    ) -> None:
        """``turn``: of writes that place replicas; ``mirrored`` waits until the view shows what was written; ``behind`` is the id of the
        event for which replicas move."""
        self.writer, self._behind = writer, behind
        self._view, self._mirrored, self._turn, self._limits = view, mirrored, turn, limits
        self._absence = Absence(store_down_after_s)
        self._unsettled = True  # whether some partition had too many or too few replicas at the last look

    # --- what operators ask -----------------------------------------------------------------------------------------

    async def move(self, group: int, source: int, to: int) -> None:
        """Returns once it is recorded.  Idempotent.  GroupNotFound, StoreUnknown, StoreTombstone, InvalidArgument; NotReady for what may
        change by itself."""
        await self._named("from_store", source)
        into = await self._named("to_store", to)
        async with self._turn:
            view = self._view()
            partition = view.catalog.partitions.get(group)
            topic = view.catalog.topic_of(partition) if partition is not None else None
            if partition is None or topic is None:
                raise GroupNotFound(f"group {group} is not recorded", group=group)
            if to in partition.wanted and source not in partition.wanted:
                return  # as was asked before
            if partition.target:
                raise NotReady(f"group {group} is being moved already ({partition.cause})", group=group)
            if topic.state != TopicState.READY:
                raise NotReady(f"the topic {topic.name} is {topic.state}", group=group)
            if not topic.is_shown(partition):
                raise NotReady(f"group {group} is new, and the topic {topic.name} still grows", group=group)
            move = operator_move(group, partition.wanted, source, to)
            if into.state != StoreState.UP or into.cordoned:
                why = "cordoned" if into.state == StoreState.UP else into.state
                raise InvalidArgument(f"to_store: store {to} is {why}, and gets no replica", store_id=to)
            if requires_racks(view.catalog, partition) and shares_rack(view.catalog, partition, source, to):
                raise InvalidArgument(f"to_store: {topic.name} requires racks apart, and {SHARES_RACK} on store {to}")
            if why := hindrance(view.catalog, view.reports, partition, to, log_bytes(view.reports, partition)):
                raise NotReady(f"store {to} {why}", store_id=to)
            if not await self.writer.begin(move):
                raise NotReady(f"group {group} was changed meanwhile; try again", group=group)
            await self._mirrored(lambda c: (p := c.partitions.get(group)) is None or to in p.replicas)

    async def decommission(self, store_id: int, dry_run: bool) -> MovePlan:
        """The plan as of now; unless it is a dry run, the store is recorded as offline when this returns.  Idempotent.  StoreUnknown,
        StoreTombstone, NotEnoughStores (R2.7)."""
        if dry_run:
            store = self._known(self._view().catalog, store_id)
            if store.state == StoreState.UP:
                check_may_go(self._view().catalog, store)
        else:
            async with self._turn:  # of topics that are created too: none comes to need more stores meanwhile
                store = await self.writer.take_out(store_id)
                await self._mirrored(lambda c: s.state != StoreState.UP if (s := c.stores.get(store_id)) else True)
        view = self._view()
        if store.state == StoreState.TOMBSTONE:
            return MovePlan()
        return plan_moves(
            as_if_offline(view.catalog, store), view.reports, view.leaders, {store_id: Cause.DECOMMISSION}
        )

    async def rebalance(self, dry_run: bool) -> tuple[MovePlan, str]:
        """The plan as of now, and what it waits for; unless it is a dry run, or there is nothing to do, it is recorded when this returns,
        and goes on until replicas are even.  Idempotent."""
        view = self._view()
        plan = plan_balance(view.catalog, view.reports, view.leaders)
        if not dry_run and not replica_balance.is_done(view.catalog, plan):
            await self.writer.ask_rebalance()
            await self._mirrored(lambda c: c.rebalance is not None)
        return plan, waits_for(view.catalog, view.reports)

    async def recommission(self, store_id: int) -> None:
        """The store is up again; moves that have begun end.  Idempotent.  StoreUnknown, StoreTombstone: it is too late."""
        known = await self.writer.store(store_id)
        if known.record.state == StoreState.TOMBSTONE:
            raise removed(store_id)
        if await self.writer.enter(store_id, StoreState.OFFLINE, StoreState.UP):
            await self._mirrored(lambda c: c.stores[store_id].state == StoreState.UP if store_id in c.stores else True)

    async def cordon(self, store_id: int, cordoned: bool) -> None:
        """The store gets no replicas from now on, or may be given some again.  Idempotent.  StoreUnknown, StoreTombstone."""
        async with self._turn:  # of whoever places replicas: the next one sees it
            if await self.writer.cordon(store_id, cordoned):
                await self._mirrored(
                    lambda c: c.stores[store_id].cordoned == cordoned if store_id in c.stores else True
                )

    async def remove_tombstones(self, wanted: Iterable[int]) -> tuple[list[int], list[tuple[StoreEntry, str]]]:
        """The ids that are buried now, and the stores that are not, with the reason (R2.7).  ``wanted`` none: every tombstone.
        StoreUnknown."""
        view = self._view()
        catalog, chosen = view.catalog, list(wanted)
        stores = [s for _, s in sorted(catalog.stores.items()) if s.state == StoreState.TOMBSTONE]
        if chosen:
            stores = [self._known(catalog, s) for s in chosen if s not in catalog.buried]
        buried, skipped = [s for s in chosen if s in catalog.buried], []
        for store in stores:
            if store.state != StoreState.TOMBSTONE:
                skipped.append((store, f"it is {store.state}; `stele store decommission {store.name}` comes first"))
            elif held := left_on(catalog, view.reports, store.store_id):
                skipped.append((store, f"it still holds {held}"))
            elif named := await self.writer.names(store.store_id):
                skipped.append((store, f"{counted(named, 'partition')} still {'names' if named == 1 else 'name'} it"))
            else:
                await self.writer.bury(store.store_id)
                buried.append(store.store_id)
        await self._mirrored(lambda c: all(s in c.buried for s in buried))
        return buried, skipped

    async def cancel(self, operation: str) -> None:
        """InvalidArgument: there is no such operation, or nothing of it can be cancelled."""
        if operation == REBALANCE:
            if not await self.writer.end_rebalance():
                raise InvalidArgument("no rebalance is under way")
            await self._mirrored(lambda c: c.rebalance is None)
            return
        kind, number = parse_id(operation)
        if kind == "decommission":
            await self.recommission(number)
            return
        if kind == "alter":
            raise InvalidArgument(
                f"{operation} is not cancelled: ask `stele topic alter` for the former replication; added partitions stay"
            )
        if (p := self._view().catalog.partitions.get(number)) is None or not p.target:
            raise InvalidArgument(f"there is no operation {operation}; `stele operation ls` lists them")
        if p.cause != Cause.OPERATOR:
            raise InvalidArgument(f"{operation} was begun for a {p.cause}, and would begin again")
        if await self.writer.cancel(number):
            await self._mirrored(lambda c: (q := c.partitions.get(number)) is None or q.target != p.target)

    async def _named(self, argument: str, store_id: int) -> StoreRecord:
        """As ZooKeeper has the store.  StoreUnknown, StoreTombstone, which name the argument."""
        try:
            record = (await self.writer.store(store_id)).record
            if record.state == StoreState.TOMBSTONE:
                raise removed(store_id)
        except (StoreUnknown, StoreTombstone) as e:
            raise type(e)(f"{argument}: {e.message}", store_id=store_id) from None
        return record

    def _known(self, catalog: Catalog, store_id: int) -> StoreEntry:
        store = catalog.stores.get(store_id)
        if store is None:
            if store_id in catalog.buried:
                raise removed(store_id)
            raise unknown(store_id)
        return store

    # --- what nobody has to ask for ---------------------------------------------------------------------------------

    def due(self, view: View, touched: Catalog | None = None) -> list[BeginMove | EnterTombstone | EndRebalance]:
        """What is to be recorded next.  Called while ZooKeeper is in step.  ``touched``: the catalog with what changed since the last call
        alone; None: all of it."""
        down = self._absence.look(view.catalog, view.reports, asyncio.get_running_loop().time())
        urgent = due(view.catalog, view.reports, view.leaders, down, self._limits)
        changed = view.catalog if touched is None or self._unsettled else touched
        self._unsettled = is_any_unsettled(changed)
        if self._unsettled:
            urgent += due_resizes(view.catalog, view.reports, view.leaders, urgent, self._limits)
        # What has to move goes first.
        return [*urgent] or [*replica_balance.due(view.catalog, view.reports, view.leaders, self._limits)]

    def out_of_step(self) -> None:
        """For a time nothing is known of who was there."""
        self._absence.forget()

    async def write(self, effect: RecordEffect) -> None:
        match effect:
            case BeginMove():
                async with self._turn:
                    if await self.writer.begin(effect, self._behind(effect)):
                        await self._mirrored(
                            lambda c: (p := c.partitions.get(effect.group)) is None or p.wanted != effect.before
                        )
            case RecordLeft(group, store_id):
                await self.writer.record_left(group, store_id)
            case RecordArrived(group):
                await self.writer.record_arrived(group)
            case RecordExtra(group, store_id):
                await self.writer.record_extra(group, store_id)
            case RecordGone(group, store_id):
                await self.writer.record_gone(group, store_id)
            case EndRebalance():
                await self.writer.end_rebalance()
            case EnterTombstone(store_id):
                # Nothing begins to name it any more, so what ZooKeeper says now holds: the view may lag behind.
                if not await self.writer.names(store_id):
                    await self.writer.enter(store_id, StoreState.OFFLINE, StoreState.TOMBSTONE)

    async def may_delete(self, effect: DeleteLeft) -> bool:
        """The view's word is enough to look, ZooKeeper's to destroy."""
        return await self.writer.has_left(effect.group, effect.store_id)
