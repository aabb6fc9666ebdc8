"""One replica of one partition: the state machine, its Raft group, and those who wait for messages.

Guarantee: a batch is proposed only if its header and checksum are good and the owner's epoch is not already overtaken;
what a reader gets is committed; who waits for an offset is woken by the entry or snapshot that brings it, or told when
the replica ends.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

from stele.datanode import commands
from stele.datanode.batch_reader import BatchReader, LocatedBatch, LogFloor, log_floor
from stele.datanode.commands import Appended, AppendOutcome, Outcome, Refused
from stele.datanode.directory import GroupSpec
from stele.datanode.foresight import Foresight
from stele.datanode.partition import PartitionState, check_leap, fenced
from stele.datanode.serial_appends import SerialAppends
from stele.services import batch
from stele.services.errors import (
    DiskFull,
    GroupStopped,
    InvalidArgument,
    LogDamaged,
    MessageTooLarge,
    NotLeader,
    NotReady,
    OffsetOutOfRange,
    SteleError,
    StorageFailed,
)
from stele.services.raft.group import Group
from stele.services.raft.storage import Entry

RETRY_AFTER_MS = 200


class DiskSpace(Protocol):
    """What a replica asks of the store's disk."""

    def take(self, size: int) -> bool: ...


class Replica:
    """``machine`` of a Raft group, and the way to it.  Runs once :meth:`run` has been called."""

    def __init__(self, spec: GroupSpec, store_id: int, entry_bytes_max: int, disk: DiskSpace) -> None:
        self.spec = spec
        self.partition = PartitionState()
        self._store_id = store_id
        self._entry_bytes_max = entry_bytes_max
        self._disk = disk
        self._group: Group | None = None
        self._proposed: asyncio.Future[object] | None = None  # the last append
        self._proposed_epoch = 0
        self._foresight = Foresight(self.partition)
        self._serial = SerialAppends(self.partition, self.current, lambda: self._proposed_epoch)
        self._restored = 0  # mark of the snapshot that it became
        self._notify_after_bytes = math.inf  # of payloads, until ``_notify`` is called
        self._notify: Callable[[], None] = lambda: None
        self._reader = BatchReader(self.partition, self._entries, self._log_floor)
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap, by the offset waited for
        self._order = itertools.count()
        self._ended: SteleError | None = None
        self.problem = ""
        self.led_in = self.handed_over_in = 0  # the newest terms of which that was told
        self._written_in, self._written_under = (
            0,
            0,
        )  # the newest term and owner epoch under which an append was applied
        self.on_first_write: Callable[[int, int, bool, bool], None] = lambda term, owner_epoch, new_term, new_owner: (
            None
        )

    def run(self, group: Group) -> None:
        self._group = group

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def group(self) -> Group | None:
        return self._group

    @property
    def state(self) -> str:
        """``loading``, ``follower``, ``candidate``, ``leader``, ``recovering`` or ``failed``."""
        if self.problem:
            return "failed"
        return self._group.state if self._group is not None else "loading"

    def running(self) -> Group:
        """Its group.  Raises NotReady while it loads (R4.7), else what ended it."""
        if self._ended is not None:
            raise self._ended
        if self.problem:
            raise StorageFailed(self.problem, group=self.spec.group)
        if self._group is None:
            raise NotReady(
                f"group {self.spec.group} is loading on store {self._store_id}", retry_after_ms=RETRY_AFTER_MS
            )
        return self._group

    def leading(self) -> Group:
        """Its group, if it leads.  Raises NotLeader with the leader's store id where that is known."""
        group = self.running()
        if group.state == "failed":
            raise StorageFailed(group.problem, group=self.spec.group)
        if not group.is_leader:
            raise NotLeader(
                f"group {self.spec.group} is not led by store {self._store_id}", leader=group.leader_store_id or None
            )
        return group

    def current(self) -> Group:
        """Its group, if it leads and has applied an entry of its own term: only then is its state no older than its
        predecessor's."""
        group = self.leading()
        if group.journal.term_at(group.applied_index) != group.term:
            raise NotReady(
                f"group {self.spec.group} has a leader that is not current yet", retry_after_ms=RETRY_AFTER_MS
            )
        return group

    # --- writing ----------------------------------------------------------------------------------------------------

    def append(self, owner_epoch: int, batches: Sequence[bytes]) -> asyncio.Future[object]:
        """Proposes ``batches`` as one entry; the future ends with the outcome of applying it.

        Errors, all definite: NotLeader, Fenced, DiskFull, MessageTooLarge, BatchCorrupt, InvalidArgument.
        """
        group = self.leading()
        if owner_epoch < self.partition.owner_epoch:
            raise fenced(owner_epoch, self.partition.owner_epoch)
        check_leap(owner_epoch, self.partition.owner_epoch)
        if not batches:
            raise InvalidArgument("an append holds at least one batch")
        size = commands.APPEND_HEAD_BYTES + sum(map(len, batches))
        if size > self._entry_bytes_max:
            raise MessageTooLarge(
                f"an append of {size} bytes; accepted: up to {self._entry_bytes_max}", bytes_max=self._entry_bytes_max
            )
        headers = [batch.read_header(b) for b in batches]
        is_current = group.journal.term_at(group.applied_index) == group.term
        foreseen = self._foresight.ask(headers) if is_current and not self._serial.is_due else None
        known = foreseen.known if foreseen is not None else {}
        # Asked now, so that it shows that this replica leads after the append has arrived.
        leads = self.leads_still(group) if any(isinstance(r, Refused) for r in known.values()) else None
        if len(known) == len(batches):
            return asyncio.ensure_future(_outcome(None, leads, known, len(batches)))
        if not self._disk.take(size):
            raise DiskFull(f"store {self._store_id} takes no writes until space returns", store_id=self._store_id)
        self._proposed_epoch = max(self._proposed_epoch, owner_epoch)
        if self._serial.is_due:
            return self._serial.append(owner_epoch, batches, self._proposed)
        chosen = [b for i, b in enumerate(batches) if i not in known]
        proposed = [h for i, h in enumerate(headers) if i not in known]
        self._proposed = proposal = group.propose(commands.encode_append(owner_epoch, chosen))
        self._foresight.proposed(proposed, foreseen)
        proposal.add_done_callback(lambda _: self._foresight.settled(proposed))
        return asyncio.ensure_future(_outcome(proposal, leads, known, len(batches))) if known else proposal

    def leads_still(self, group: Group) -> asyncio.Future[int]:
        """Done once it is shown that this replica leads.  A gap is told only then: a leader that was deposed unawares may lack what its
        successor has stored, and whoever was told of the gap would send that again as another producer's."""
        return group.read_index()

    def propose(self, command: commands.OwnerCommand) -> asyncio.Future[object]:
        group = self.leading()
        check_leap(command.owner_epoch, self.partition.owner_epoch)
        self._proposed_epoch = max(self._proposed_epoch, command.owner_epoch)
        return group.propose(commands.encode(command))

    def trim(self, log_start: int) -> asyncio.Future[object]:
        """Proposes that messages below ``log_start`` are no longer kept: retention's decision, of the replica that leads."""
        return self.current().propose(commands.encode(commands.Trim(log_start)))

    # --- the Raft group's machine -----------------------------------------------------------------------------------

    def apply(self, index: int, term: int, payload: bytes) -> Outcome:
        """The entry at ``index`` is committed."""
        outcome = self.partition.apply(index, term, payload)
        self._wake_readers()
        if term != self._written_in or self.partition.owner_epoch != self._written_under:
            self._note_write(term, outcome)
        self._notify_after_bytes -= len(payload)
        if self._notify_after_bytes <= 0:
            self._notify_after_bytes = math.inf
            self._notify()
        return outcome

    def _note_write(self, term: int, outcome: Outcome) -> None:
        """Tells of the first write of this replica's own term, or under another owner.  Others of before it has seen as a follower."""
        if not isinstance(outcome, AppendOutcome) or not any(
            isinstance(r, Appended) and not r.duplicate for r in outcome.results
        ):
            return
        owner_epoch = self.partition.owner_epoch
        new_term, new_owner = term > self._written_in, owner_epoch > self._written_under
        self._written_in, self._written_under = term, owner_epoch
        if self._group is not None and self._group.is_leader and self._group.term == term:
            self.on_first_write(term, owner_epoch, new_term, new_owner)

    def apply_damaged(self, index: int, payload: bytes) -> bool:
        """The entry at ``index`` is committed, and some of its bytes have changed.  False, and nothing has changed, unless the partition is
        certain of its offsets behind it."""
        certain = self.partition.apply_damaged(index, payload)
        self._wake_readers()
        return certain

    def notify_after(self, size: int, notify: Callable[[], None]) -> None:
        """Calls ``notify`` once, when ``size`` bytes more have been applied; what was to be called before is forgotten."""
        self._notify_after_bytes, self._notify = size, notify

    def snapshot(self) -> tuple[bytes, int]:
        """The state after what was applied, and its mark."""
        return self.partition.encode_snapshot(), self.partition.mark

    def restore(self, state: bytes) -> None:
        """Becomes ``state``.  SnapshotDamaged, and then nothing has changed."""
        self.partition.restore(state)
        self._restored = self.partition.mark
        self._written_under = self.partition.owner_epoch  # what was written under it is not known any more
        self._reader.forget()
        self._wake_readers()

    def _wake_readers(self) -> None:
        waiting, end = self._waiting, self.partition.high_watermark
        while waiting and waiting[0][0] < end:
            _wake(heapq.heappop(waiting)[2])

    # --- reading ----------------------------------------------------------------------------------------------------

    @property
    def log_start(self) -> int:
        """The first offset that can be read from this replica: never below the partition's own."""
        return self._reader.log_start

    def read(self, offset: int, bytes_max: int) -> list[LocatedBatch]:
        """Committed batches from ``offset`` on.  Raises LogDamaged where ``offset`` stands in bytes that do not check (facts ``first``,
        ``last``: the offsets that are not to be had here), OffsetOutOfRange below the log's start."""
        group = self.running()
        if group.state == "failed":
            raise StorageFailed(group.problem, group=self.spec.group)
        start = self.log_start
        if offset < start:
            raise OffsetOutOfRange(
                f"offset {offset} is no longer kept; the first is {start}",
                offset=offset,
                earliest=start,
                latest=self.partition.high_watermark,
            )
        try:
            return self._reader.read(offset, bytes_max)
        except OSError as e:
            raise LogDamaged(f"group {self.spec.group} cannot be read: {e}", group=self.spec.group) from e

    def beyond(self, offset: int) -> asyncio.Future[None]:
        """Done once a message at ``offset`` is committed here; fails when the replica ends.  Cancel it to stop
        waiting."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._ended is not None:
            future.set_exception(self._ended)
        elif offset < self.partition.high_watermark:
            future.set_result(None)
        else:
            heapq.heappush(self._waiting, (offset, next(self._order), future))
            if len(self._waiting) % 1024 == 0:
                self._waiting = [w for w in self._waiting if not w[2].done()]
                heapq.heapify(self._waiting)
        return future

    def _entries(self, first: int, last: int, bytes_max: int) -> Sequence[Entry]:
        assert self._group is not None
        try:
            return self._group.journal.read(first, last, bytes_max)
        except LogDamaged as e:
            self._group.report_damage(e)
            raise

    def mended(self) -> None:
        """What was damaged can be read again."""
        self._reader.forget()

    def _log_floor(self) -> LogFloor:
        group = self._group
        if group is None:
            return LogFloor()
        return log_floor(group.journal.first_index, group.snapshots, self.partition.log_start, self._restored)

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The replica goes: whoever waits is told, and nothing new is taken."""
        self._ended = GroupStopped(
            f"group {self.spec.group} is no longer on store {self._store_id}", group=self.spec.group
        )
        waiting, self._waiting = self._waiting, []
        for _, _, future in waiting:
            if not future.done():
                future.set_exception(self._ended)

    def fail(self, problem: str) -> None:
        """It could not be opened; the store keeps it in its listings."""
        self.problem = problem


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _outcome(
    proposal: asyncio.Future[object] | None,
    leads: asyncio.Future[int] | None,
    known: dict[int, Appended | Refused],
    count: int,
) -> object:
    """The outcome of an append of which some batches were not proposed, because what comes of them is ``known``."""
    try:
        if leads is not None:
            await leads
    except SteleError as e:
        known = {i: Refused.of(e) if isinstance(r, Refused) else r for i, r in known.items()}
    if proposal is None:
        return AppendOutcome(tuple(known[i] for i in range(count)))
    outcome: object
    try:
        outcome = await proposal
    except SteleError as e:
        outcome = Refused.of(e)  # of these batches: the others have their own
    rest = iter(outcome.results if isinstance(outcome, AppendOutcome) else [outcome] * count)
    return AppendOutcome(tuple(known[i] if i in known else next(rest) for i in range(count)))  # type: ignore[misc]
