"""Election of one leader, fenced by an epoch that ZooKeeper itself checks.

Guarantee: leaderships have rising epochs, and a transaction of a leadership is committed only while no later one has begun: the epoch
rises in the same transaction that writes the new leader record, and every transaction of a leader checks the epoch node's version.  A
leader that was paused and wakes up after its successor took over is refused by ZooKeeper, whatever it believes (``LeadershipLost``).

Usage: ``election = Election(session, "ns1", endpoint); await election.campaign()``; while ``election.leadership`` is there and
``is_valid``, write through ``leadership.transaction()``.

It does not promise that two processes never both believe to lead: ``is_valid`` is a hint by one's own clock, the epoch decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from stele.services.coordination.claim import Keeper, WritePace
from stele.services.coordination.metadata import MetadataStore, Transaction
from stele.services.coordination.records import EpochRecord, LeaderRecord, decode, encode
from stele.services.coordination.schema import CANDIDATE, ELECTION, EPOCH, LEADER
from stele.services.coordination.session import Session, SessionEvent, SessionState
from stele.services.coordination.subscribers import Subscribers
from stele.services.coordination.znode import CheckOp, CreateOp, DeleteOp, Node, Op, SetOp
from stele.services.errors import (
    CoordinationUnknown,
    LeadershipLost,
    RecordExists,
    RecordMissing,
    VersionConflict,
)

REASSERT_S = 3.0  # longer than the pace takes to forget, so that a routine round does not slow a failover
ROUNDS_MAX = 16

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a candidate stands."""

    leads: bool
    watch: str = ""  # the candidate just before ours: only its end concerns us, so that a leader's death wakes one


def stand(candidates: list[str], mine: str) -> Standing:
    """The oldest candidate leads; every other one watches its predecessor.  Pure."""
    order = sorted(candidates)
    place = order.index(mine)
    return Standing(True) if place == 0 else Standing(False, order[place - 1])


class Leadership:
    """One term of office.  Void for good once it was lost."""

    def __init__(self, session: Session, record: LeaderRecord, epoch_version: int, session_id: int) -> None:
        self.record = record
        self.epoch = record.epoch
        self._session = session
        self._epoch_version = epoch_version
        self._session_id = session_id
        self._lost = False
        self._on_lost: Callable[[Leadership], None] = lambda _: None

    @property
    def epoch_version(self) -> int:
        return self._epoch_version

    @property
    def is_valid(self) -> bool:
        """As far as this process can know by itself; false while the session is fenced, and for good after its end."""
        return not self._lost and self._session.session_id == self._session_id and not self._session.fenced

    @property
    def is_lost(self) -> bool:
        return self._lost

    def transaction(self) -> Transaction:
        """A transaction that ZooKeeper refuses once a later leadership has begun: its ``commit`` then raises LeadershipLost."""
        return MetadataStore(self._session).transaction(fence=self)

    def refuse(self) -> LeadershipLost:
        self.end()
        return LeadershipLost(f"the leadership of epoch {self.epoch} is over", epoch=self.epoch)

    def end(self) -> None:
        if not self._lost:
            self._lost = True
            self._on_lost(self)


class Election:
    """One candidate.  Callbacks run on the loop."""

    def __init__(self, session: Session, name: str, endpoint: str) -> None:
        self.name = name
        self.endpoint = endpoint
        self.leadership: Leadership | None = None
        self.leader: LeaderRecord | None = None
        self._session = session
        self._leaving = False
        self._campaigning = False
        self._pace = WritePace()
        self._turn = asyncio.Lock()
        self._keeper = Keeper(session, f"election {name}", self._step, reassert_s=REASSERT_S)
        self._relay = session.relay(self._keeper.on_watch)
        self._on_leader: Subscribers[LeaderRecord | None] = Subscribers()
        self._on_leadership: Subscribers[Leadership | None] = Subscribers()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._elected = asyncio.Event()

    async def campaign(self) -> None:
        """Enters the election and stays in it, under every new session, until ``resign``; does not wait to be elected."""
        self._leaving, self._campaigning = False, True
        self._start()

    async def observe(self) -> None:
        """Follows who leads without being a candidate."""
        self._start()

    def _start(self) -> None:
        self._unsubscribe()
        self._unsubscribe = self._session.subscribe(self._on_session)
        self._keeper.start()
        self._keeper.poke()

    async def resign(self) -> None:
        """Gives up leadership and candidacy; the next candidate leads at once.  Idempotent."""
        self._leaving, self._campaigning = True, False
        await self._keeper.stop()
        self._unsubscribe()
        async with self._turn:
            # Ended here BEFORE the candidacy goes: nothing is begun under it once a successor may lead.
            ended = self.leadership
            self._end_leadership()
            try:
                for name, _ in await self._own_candidates():
                    await self._delete_quietly(f"{ELECTION}/{name}")
                leader = await self._session.get(LEADER)
                if ended is not None and leader is not None and self._is_ours(leader):
                    await self._session.commit([CheckOp(EPOCH, ended.epoch_version), DeleteOp(LEADER)])
            except (RecordMissing, VersionConflict):
                pass
            except CoordinationUnknown as error:
                log.warning("resign_unknown", name=self.name, error=str(error))

    def current_leader(self) -> LeaderRecord | None:
        """Who leads, as far as is known; the last known while ZooKeeper cannot be reached."""
        return self.leader

    async def ask_leader(self) -> LeaderRecord | None:
        """Who leads now, from ZooKeeper.  CoordinationUnknown."""
        node = await self._session.get(LEADER)
        return None if node is None else decode(node.value, LeaderRecord, LEADER)

    async def elected(self) -> Leadership:
        """Waits until this process leads."""
        while self.leadership is None:
            await self._elected.wait()
        return self.leadership

    def subscribe(self, callback: Callable[[LeaderRecord | None], None]) -> Callable[[], None]:
        """Tells of every change of leader, whoever it is; None while there is none."""
        return self._on_leader.add(callback)

    def subscribe_leadership(self, callback: Callable[[Leadership | None], None]) -> Callable[[], None]:
        """Tells when this process begins to lead, and (None) when that is over."""
        return self._on_leadership.add(callback)

    # --- one step, repeated by the keeper --------------------------------------------------------------------------

    def _on_session(self, event: SessionEvent) -> None:
        if event.state in (SessionState.LOST, SessionState.CLOSED) or event.new_session:
            self._end_leadership()

    async def _step(self) -> None:
        async with self._turn:
            if self._campaigning and not self._leaving:
                await self._campaign_once()
            node = await self._session.get(LEADER, watch=self._relay)
            if node is None:
                await self._session.exists(LEADER, watch=self._relay)
            self._publish_leader(None if node is None else decode(node.value, LeaderRecord, LEADER))

    async def _campaign_once(self) -> None:
        for _ in range(ROUNDS_MAX):
            own = await self._own_candidates()
            if not own:
                # An answer that is lost is settled by the next round's reading: the node is known by its owner, not by its number.
                try:
                    await self._session.create(
                        f"{ELECTION}/{CANDIDATE}", self.name.encode(), ephemeral=True, sequence=True
                    )
                except CoordinationUnknown as error:
                    log.info("candidacy_unknown", name=self.name, error=str(error))
                continue
            for name, _ in own[1:]:
                await self._delete_quietly(f"{ELECTION}/{name}")
            candidate = own[0][0]
            names = [n for n in await self._session.children(ELECTION) or [] if n.startswith(CANDIDATE)]
            if candidate not in names:
                continue
            standing = stand(names, candidate)
            if standing.leads:
                if await self._is_importing():
                    self._end_leadership()
                    return
                if await self._lead(candidate):
                    return
            elif await self._session.exists(f"{ELECTION}/{standing.watch}", watch=self._relay) is not None:
                self._end_leadership()
                return
        raise CoordinationUnknown(f"election of {self.name}: not settled in {ROUNDS_MAX} rounds", name=self.name)

    async def _is_importing(self) -> bool:
        """Whether a copy of the records is being imported; watched, so that its end wakes us."""
        epoch = await self._session.get(EPOCH, watch=self._relay)
        return epoch is not None and bool(decode(epoch.value, EpochRecord, EPOCH).importing)

    async def _lead(self, candidate: str) -> bool:
        """True once leader record and epoch are ours; False: read again."""
        session_id = self._session.session_id
        epoch = await self._session.get(EPOCH)
        leader = await self._session.get(LEADER)
        if epoch is None:
            await self._session.ensure(EPOCH, encode(EpochRecord(epoch=0)))
            return False
        if leader is not None and self._is_ours(leader) and await self._resume(epoch, leader, session_id):
            return True
        self._end_leadership()
        known = decode(epoch.value, EpochRecord, EPOCH)
        if known.importing:
            return False
        record = LeaderRecord(name=self.name, endpoint=self.endpoint, epoch=known.epoch + 1)
        ops: list[Op] = [
            # The candidacy by which this was decided must still stand when the epoch rises, or a deposed candidate could rise over its
            # successor; a session that is new meanwhile has another.
            CheckOp(f"{ELECTION}/{candidate}", 0),
            SetOp(EPOCH, encode(replace(known, epoch=record.epoch)), epoch.stat.version),
            *([DeleteOp(LEADER)] if leader is not None else []),
            CreateOp(LEADER, encode(record), ephemeral=True),
        ]
        await self._pace.keep()
        try:
            results = await self._session.commit(ops)
        except (RecordExists, RecordMissing, VersionConflict, CoordinationUnknown) as error:
            log.info("election_unsettled", name=self.name, error=str(error))
            return False
        self._begin(record, results[1].version, session_id)
        return True

    async def _resume(self, epoch: Node, leader: Node, session_id: int) -> bool:
        """The leader record is this session's: the answer to its transaction was lost, or this is the keeper's routine round."""
        record = decode(leader.value, LeaderRecord, LEADER)
        if decode(epoch.value, EpochRecord, EPOCH).epoch != record.epoch or record.endpoint != self.endpoint:
            return False  # somebody raised the epoch over us
        if self.leadership is None or self.leadership.is_lost:
            self._begin(record, epoch.stat.version, session_id)
        return True

    def _begin(self, record: LeaderRecord, epoch_version: int, session_id: int) -> None:
        self.leadership = Leadership(self._session, record, epoch_version, session_id)
        self.leadership._on_lost = self._on_refused
        self._elected.set()
        log.info("leadership_begun", name=self.name, epoch=record.epoch)
        self._publish_leader(record)
        self._on_leadership.publish(self.leadership)

    def _on_refused(self, leadership: Leadership) -> None:
        if leadership is not self.leadership:
            return
        self.leadership = None
        self._elected.clear()
        log.warning("leadership_over", name=self.name, epoch=leadership.epoch)
        self._on_leadership.publish(None)
        self._keeper.poke()

    def _end_leadership(self) -> None:
        if self.leadership is not None:
            self.leadership.end()

    def _publish_leader(self, leader: LeaderRecord | None) -> None:
        if leader != self.leader:
            self.leader = leader
            self._on_leader.publish(leader)

    async def _own_candidates(self) -> list[tuple[str, Node]]:
        """Candidates of our session, oldest first."""
        names = [n for n in await self._session.children(ELECTION) or [] if n.startswith(CANDIDATE)]
        nodes = await asyncio.gather(*(self._session.get(f"{ELECTION}/{name}") for name in names))
        return [(n, node) for n, node in zip(names, nodes, strict=True) if node is not None and self._is_ours(node)]

    def _is_ours(self, node: Node) -> bool:
        return node.stat.ephemeral_owner == self._session.session_id

    async def _delete_quietly(self, path: str) -> None:
        try:
            await self._session.delete(path)
        except RecordMissing:
            pass
