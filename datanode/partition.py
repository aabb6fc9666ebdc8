"""One partition as a pure state machine over its Raft log: offsets, producers, owner epoch, cursors.

Guarantee: every replica that applied the same entries holds the same state and gave the same outcomes.  Offsets are
assigned here, without gaps, and never change.  A batch is stored at most once per producer and sequence.  Nothing is
stored under an owner epoch lower than the highest one seen (R5.10).  An acknowledged offset stays acknowledged until
its cursor is reset or deleted.  ``log_start`` only rises, and only by a trim.

:meth:`Partition.apply` never raises for what an entry holds: a damaged or refused command is an outcome like any other
(H11).  Messages are not kept here: the log is the message log, and :mod:`datanode.batch_reader` finds them in it again.  No
clock, no I/O.
"""

from __future__ import annotations

from stele.datanode import commands
from stele.datanode.commands import (
    Ack,
    Append,
    Appended,
    AppendOutcome,
    CommandKind,
    CreateCursor,
    CursorOutcome,
    DeleteCursor,
    DeleteOutcome,
    FenceOutcome,
    FenceOwner,
    Outcome,
    OwnerCommand,
    Position,
    Refused,
    ResetCursor,
    Start,
    Trim,
    TrimOutcome,
)
from stele.datanode.cursor import RANGES_MAX, Cursor
from stele.datanode.offsets import OffsetIndex, TimeIndex
from stele.datanode.producers import PRODUCERS_MAX, Producers
from stele.datanode.snapshot_codec import SnapshotDamaged, SnapshotDecoder, SnapshotEncoder
from stele.services import batch
from stele.services.batch import BatchHeader
from stele.services.errors import (
    BatchCorrupt,
    Fenced,
    InvalidArgument,
    Overloaded,
    SteleError,
    SubscriptionNotFound,
)

SUBSCRIPTIONS_MAX = 1_000
RANGES_SUM_MAX = 100_000  # of all cursors; each may have RANGES_EACH all the same
RANGES_EACH = 100
LEAP_MAX = 1 << 32
_SNAPSHOT_MAGIC = 0x5374_656C_6550_0002  # "StelP", format 2
_SNAPSHOT_MAGIC_1 = 0x5374_656C_6550_0001  # its cursors counted no redeliveries
_OFFSET_END = 1 << 63
_OTHER_COMMANDS = {bytes((kind,)) for kind in CommandKind if kind is not CommandKind.APPEND}


class PartitionState:
    """The state after the entries applied so far."""

    def __init__(
        self,
        *,
        producers_max: int = PRODUCERS_MAX,
        subscriptions_max: int = SUBSCRIPTIONS_MAX,
        ranges_max: int = RANGES_MAX,
        ranges_sum_max: int = RANGES_SUM_MAX,
    ) -> None:
        self.applied_index = 0
        self.owner_epoch = 0
        self.log_start = 0  # first offset that is kept
        self.high_watermark = 0  # offset after the last one stored
        self.offsets = OffsetIndex()
        self.times = TimeIndex()
        self.producers = Producers(producers_max)
        self._subscriptions_max = subscriptions_max
        self._ranges_max = ranges_max
        self._ranges_sum_max = ranges_sum_max
        self._cursors: dict[str, Cursor] = {}
        self._last_generation = 0  # one counter for all cursors: a name used again never repeats a generation

    # --- reading --------------------------------------------------------------------------------------------------

    def cursor(self, subscription: str) -> Cursor | None:
        return self._cursors.get(subscription)

    @property
    def cursors(self) -> dict[str, Cursor]:
        """By subscription; not to be changed by the caller."""
        return self._cursors

    @property
    def mark(self) -> int:
        """How far it is, as retention measures it: messages below it are in the log up to the last applied entry."""
        return self.high_watermark

    # --- applying -------------------------------------------------------------------------------------------------

    def apply(self, index: int, term: int, payload: bytes) -> Outcome:
        """The outcome of the regular entry at ``index``.  Indexes only grow; a repeated one is a fault of the caller
        and raises."""
        if index <= self.applied_index:
            raise ValueError(f"entry {index} is applied after entry {self.applied_index}")
        # For a refused entry too, and BEFORE it is looked at: a replica that starts from a snapshot goes on behind ``applied_index``.
        # Were it left behind, the entry would be applied a second time, to a state that might no longer refuse it.
        self.applied_index = index
        outcome = self._apply(index, payload)
        if isinstance(outcome, Refused) and payload[:1] == bytes((CommandKind.APPEND,)):
            # Its batches stay in the log.  A reader that walked over them unwarned would count them as messages, and give every
            # message behind them an offset that was never its own.
            self.offsets.stored_only(index, 0)
        return outcome

    def apply_damaged(self, index: int, payload: bytes) -> bool:
        """The entry at ``index``, some bytes of which have changed: for the one replica that there is.  True if it is certain how many
        offsets the entry took: they are taken.  Of a command that takes none nothing is done: what it acknowledged is delivered
        again.  False: nothing has changed."""
        batches = _batches_in(payload)
        if batches is None:
            return False
        expected: dict[int, int] = {}
        for content, header in batches:
            if not self._is_certain(content, header, expected.get(header.producer_id)):
                return False
            expected[header.producer_id] = header.last_sequence + 1
        self.applied_index = index
        if batches:
            self._append(index, tuple(header for _, header in batches))
        return True

    def _is_certain(self, content: bytes, header: BatchHeader, expected: int | None) -> bool:
        """Whether the batch was stored, with as many messages as its header says.  A damaged one of which the producer's number might have
        changed is not: the batches behind it would be refused that were stored."""
        try:
            batch.read_header(content)
            return True  # what has changed stands elsewhere
        except BatchCorrupt:
            if expected is None:
                expected = self.producers.next_sequence(header.producer_id)
            follows = header.producer_id == 0 or header.base_sequence == expected > 0
            return follows and batch.is_consistent(content)

    def _apply(self, index: int, payload: bytes) -> Outcome:
        try:
            command = commands.decode(payload)
        except BatchCorrupt as e:
            return Refused.of(e)
        except commands.CommandDamaged as e:
            return Refused.of(InvalidArgument(f"entry {index}: {e}"))
        if isinstance(command, Trim):
            # No fence (R5.10): it stands for no owner, writes nothing, and drops only what retention allows under any.
            return self._trim(command.log_start)
        if command.owner_epoch < self.owner_epoch:
            return Refused.of(fenced(command.owner_epoch, self.owner_epoch))
        # By every command, not by a fence alone, and although the command itself may be refused below: whoever speaks under a higher
        # epoch has deposed the one before, whose appends that are still on their way must come to nothing.
        self.owner_epoch = command.owner_epoch
        return self._carry_out(index, command)

    def _carry_out(self, index: int, command: Append | OwnerCommand) -> Outcome:
        match command:
            case Append(headers=headers):
                return self._append(index, headers)
            case FenceOwner(owner_epoch=epoch):
                return FenceOutcome(epoch, self.high_watermark, self.log_start)
            case CreateCursor(subscription=name, position=position):
                return self._create_cursor(name, position)
            case Ack():
                return self._ack(command)
            case ResetCursor(subscription=name, position=position):
                return self._reset_cursor(name, position)
            case DeleteCursor(subscription=name):
                return DeleteOutcome(self._cursors.pop(name, None) is not None)

    def _append(self, index: int, headers: tuple[BatchHeader, ...]) -> Outcome:
        results: list[Appended | Refused] = []
        first_stored, mask = self.high_watermark, 0
        for i, header in enumerate(headers):
            # One batch is stored BEFORE the next is checked: two of one producer in one entry follow one another.
            refusal = self.producers.applied(header)
            if refusal is None and self.high_watermark + header.record_count > _OFFSET_END:
                refusal = Refused.of(InvalidArgument("the partition has no offsets left"))
            if refusal is not None:
                # It takes no offset: offsets have no gaps, and a duplicate answers with the one it has.
                results.append(refusal)
                continue
            offset = self.high_watermark
            self.producers.stored(header, offset)
            self.times.stored(header.timestamp_ms, offset)
            self.high_watermark += header.record_count
            mask |= 1 << i
            results.append(Appended(offset))
        if mask:
            self.offsets.stored(index, first_stored, sum(header.length for header in headers))
        if mask != (1 << len(headers)) - 1:
            self.offsets.stored_only(index, mask)
        return AppendOutcome(tuple(results))

    def _create_cursor(self, name: str, position: Position) -> Outcome:
        cursor = self._cursors.get(name)
        if cursor is not None:
            # BEFORE the limit: the repeat of a create whose answer was lost finds its cursor, however full it is by now.
            return CursorOutcome(name, cursor.ack_floor, cursor.generation)
        if len(self._cursors) >= self._subscriptions_max:
            limit = self._subscriptions_max
            return Refused.of(Overloaded(f"the partition has {limit} subscriptions, the most it may", limit=limit))
        cursor = self._cursors[name] = Cursor(self._offset_of(position), self._next_generation())
        return CursorOutcome(name, cursor.ack_floor, cursor.generation, created=True)

    def _ack(self, command: Ack) -> Outcome:
        cursor = self._cursors.get(command.subscription)
        if cursor is None:
            return Refused.of(_no_such(command.subscription))
        for first, last in (*command.ranges, *((first, last) for first, last, _ in command.redelivered)):
            # An offset that does not exist yet must not be acknowledged: its message would never be delivered.
            if first > last or last >= self.high_watermark:
                return Refused.of(
                    InvalidArgument(
                        f"offsets {first}..{last} cannot be acknowledged: the partition ends at {self.high_watermark}",
                        high_watermark=self.high_watermark,
                    )
                )
        # One of an earlier generation is no error and changes nothing: it was sent before a reset, and counted now it would
        # acknowledge what the reset is there to have delivered again.
        if command.generation == cursor.generation and not cursor.ack(command.ranges, limit := self._room_for(cursor)):
            return Refused.of(
                Overloaded(
                    f"subscription {command.subscription} would have more than {limit} ranges of "
                    f"acknowledged offsets above {cursor.ack_floor}",
                    limit=limit,
                )
            )
        if command.generation == cursor.generation and command.redelivered:
            cursor.redelivered(command.redelivered)
        return CursorOutcome(command.subscription, cursor.ack_floor, cursor.generation)

    def _room_for(self, cursor: Cursor) -> int:
        """How many ranges it may have: cursors that are full of holes take no more memory than the bound, nor another one's least part."""
        others = sum(c.range_count for c in self._cursors.values()) - cursor.range_count
        return min(self._ranges_max, max(RANGES_EACH, self._ranges_sum_max - others))

    def _reset_cursor(self, name: str, position: Position) -> Outcome:
        cursor = self._cursors.get(name)
        if cursor is None:
            return Refused.of(_no_such(name))
        cursor.reset(self._offset_of(position), self._next_generation())
        return CursorOutcome(name, cursor.ack_floor, cursor.generation)

    def _trim(self, log_start: int) -> Outcome:
        """What is gone is delivered to nobody: cursors below move up to the start and count the rest as acknowledged."""
        # Beyond the end it would put the cursors behind messages that are still to come, and nobody would be given those.
        log_start = min(log_start, self.high_watermark)
        if log_start <= self.log_start:
            return TrimOutcome(self.log_start)
        self.log_start = log_start
        unacked = sum(cursor.trim(log_start) for cursor in self._cursors.values())
        self.offsets.trim(log_start)
        self.times.trim(log_start)
        return TrimOutcome(log_start, unacked)

    def _next_generation(self) -> int:
        self._last_generation += 1
        return self._last_generation

    def _offset_of(self, position: Position) -> int:
        match position.start:
            case Start.EARLIEST:
                return self.log_start
            case Start.LATEST:
                return self.high_watermark
            case Start.OFFSET:
                return min(max(position.value, self.log_start), self.high_watermark)
            case Start.TIMESTAMP:
                if position.value > self.times.latest_ms:
                    return self.high_watermark
                return max(self.times.locate(position.value) or 0, self.log_start)

    # --- the whole state ------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """The invariants; AssertionError where one is broken."""
        assert 0 <= self.log_start <= self.high_watermark <= _OFFSET_END
        assert len(self._cursors) <= self._subscriptions_max
        generations = {cursor.generation for cursor in self._cursors.values()}
        assert len(generations) == len(self._cursors)
        assert all(0 < g <= self._last_generation for g in generations)
        for cursor in self._cursors.values():
            assert cursor.ack_floor >= self.log_start, "an offset is owed that is gone"
            cursor.validate(self.high_watermark, self._ranges_max)
        self.producers.validate(self.high_watermark)
        self.offsets.validate(self.applied_index, self.log_start, self.high_watermark)
        self.times.validate(self.high_watermark)

    def encode_snapshot(self) -> bytes:
        """The whole state; equal states have equal bytes."""
        out = SnapshotEncoder()
        out.u64(_SNAPSHOT_MAGIC, self.applied_index, self.owner_epoch, self.log_start, self.high_watermark)
        out.u64(self._last_generation, len(self._cursors))
        for name in sorted(self._cursors):  # a replica that was started from a snapshot has met them in another order
            out.blob(name.encode())
            self._cursors[name].encode(out)
        self.producers.encode(out)
        self.offsets.encode(out)
        self.times.encode(out)
        self.times.encode_leaps(out)  # last: what has none is as it was before there were any
        return out.bytes()

    def restore(self, snapshot: bytes) -> None:
        """Becomes the state that ``snapshot`` holds, whatever it was.  Raises SnapshotDamaged, and then it is
        unchanged."""
        source = SnapshotDecoder(snapshot)
        magic = source.u64()
        if magic not in (_SNAPSHOT_MAGIC, _SNAPSHOT_MAGIC_1):
            raise SnapshotDamaged("not a partition's snapshot")
        fresh = PartitionState(
            producers_max=self.producers.limit,
            subscriptions_max=self._subscriptions_max,
            ranges_max=self._ranges_max,
            ranges_sum_max=self._ranges_sum_max,
        )
        fresh.applied_index, fresh.owner_epoch = source.u64(), source.u64()
        fresh.log_start, fresh.high_watermark = source.u64(), source.u64()
        fresh._last_generation = source.u64()
        for _ in range(source.u64()):
            name = source.blob().decode(errors="replace")
            fresh._cursors[name] = Cursor.decode(source, with_redeliveries=magic == _SNAPSHOT_MAGIC)
        fresh.producers.decode(source)
        fresh.offsets.decode(source)
        fresh.times.decode(source)
        fresh.times.decode_leaps(source)
        source.end()
        try:
            fresh.validate()
        except (AssertionError, ValueError, IndexError) as e:
            raise SnapshotDamaged(f"the snapshot breaks an invariant: {e}") from None
        # Two byte strings for one state would make equal replicas look different, by the checksum of what they took.
        if magic == _SNAPSHOT_MAGIC and fresh.encode_snapshot() != snapshot:
            raise SnapshotDamaged("the snapshot is not what its own state would be written as")
        # Field by field into this object, and only now that nothing can fail: whoever reads or appends holds on to it.
        self.__dict__.update(fresh.__dict__)


def _batches_in(payload: bytes) -> list[tuple[bytes, BatchHeader]] | None:
    """Of an append whose bytes have changed somewhere; none where it was no append; None: it may have been one."""
    try:
        found = list(commands.batches_of(payload))
    except BatchCorrupt:
        found = []
    if not found:
        return [] if not payload or payload[:1] in _OTHER_COMMANDS else None
    return [(payload[begin:end], header) for begin, end, header in found]


def fenced(epoch: int, seen: int) -> Fenced:
    return Fenced(f"owner epoch {epoch} was overtaken by {seen}", epoch=epoch, seen=seen)


def check_leap(epoch: int, seen: int) -> None:
    """Epochs count changes of owners, or of leading nameservers; the next ids are counters, too.  InvalidArgument for one that no count can
    have reached: taken, it would fence everybody for good."""
    if epoch > seen + LEAP_MAX:
        raise InvalidArgument(f"epoch or id {epoch} is out of reach from {seen}; accepted: up to {seen + LEAP_MAX}")


def _no_such(subscription: str) -> SteleError:
    return SubscriptionNotFound(f"no subscription {subscription} on this partition", subscription=subscription)
