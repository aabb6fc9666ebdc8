"""The commands of a partition's log, their bytes and their results.

A regular log entry holds one command, big-endian: ``command u8 | owner_epoch u64 | ...``, where the rest is

* append: batches back to back, each as long as its own header says (services/batch.py);
* fence, and nothing more;
* create cursor: ``name | start u8 | value u64``;
* ack: ``name | generation u64 | count u32 | count × (first u64, last u64)``, both ends included;
* counted ack: like ack, then ``count u32 | count × (first u64, last u64, redeliveries u32)``;
* reset cursor: like create; ``start`` may also be a timestamp;
* delete cursor: ``name``;
* trim: ``log_start u64``, with the owner epoch 0: retention is no owner's business;

and ``name`` is ``length u8 | UTF-8``.  :func:`decode` raises CommandDamaged or BatchCorrupt for anything else, the same
on every replica.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from stele.services import batch
from stele.services.errors import BatchCorrupt, SteleError, from_wire

NAME_BYTES_MAX = 128
ACK_RANGES_MAX = 10_000
REDELIVERED_RANGES_MAX = 100

_HEAD = struct.Struct(">BQ")
_START = struct.Struct(">BQ")
_ACK = struct.Struct(">QI")
_RANGE = struct.Struct(">QQ")
_COUNT = struct.Struct(">I")
_REDELIVERED = struct.Struct(">QQI")
_TRIM = struct.Struct(">Q")
_BATCH_LENGTH = struct.Struct(">I")
_BATCH_LENGTH_AT = 4
APPEND_HEAD_BYTES = _HEAD.size


class CommandDamaged(ValueError):
    """The bytes are not a command of this version."""


class CommandKind(IntEnum):
    APPEND = 1
    FENCE = 2
    CREATE_CURSOR = 3
    ACK = 4
    RESET_CURSOR = 5
    DELETE_CURSOR = 6
    TRIM = 7
    COUNTED_ACK = 8


class Start(IntEnum):
    """Where a cursor begins."""

    EARLIEST = 0
    LATEST = 1
    OFFSET = 2
    TIMESTAMP = 3


@dataclass(frozen=True, slots=True)
class Position:
    start: Start
    value: int = 0  # OFFSET: the offset; TIMESTAMP: unix milliseconds; else 0


EARLIEST = Position(Start.EARLIEST)
LATEST = Position(Start.LATEST)


@dataclass(frozen=True, slots=True)
class Append:
    owner_epoch: int
    headers: tuple[batch.BatchHeader, ...]


@dataclass(frozen=True, slots=True)
class FenceOwner:
    owner_epoch: int


@dataclass(frozen=True, slots=True)
class CreateCursor:
    owner_epoch: int
    subscription: str
    position: Position


@dataclass(frozen=True, slots=True)
class Ack:
    owner_epoch: int
    subscription: str
    generation: int
    ranges: tuple[tuple[int, int], ...]
    redelivered: tuple[tuple[int, int, int], ...] = ()  # first, last, how often they were delivered again


@dataclass(frozen=True, slots=True)
class ResetCursor:
    owner_epoch: int
    subscription: str
    position: Position


@dataclass(frozen=True, slots=True)
class DeleteCursor:
    owner_epoch: int
    subscription: str


@dataclass(frozen=True, slots=True)
class Trim:
    """Messages below ``log_start`` are no longer kept.  Proposed by the replica that leads, for retention; it carries no owner
    epoch and changes none."""

    log_start: int


OwnerCommand = FenceOwner | CreateCursor | Ack | ResetCursor | DeleteCursor
Command = Append | OwnerCommand | Trim


# --- what applying one came to: plain values, equal on every replica that applied the same log -----------------------


@dataclass(frozen=True, slots=True)
class Refused:
    """The command (or one batch of it) changed nothing, for a reason of services/errors.py."""

    reason: str
    message: str
    facts: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(error: SteleError) -> Refused:
        return Refused(error.reason, error.message, tuple(sorted(error.facts.items())))

    def error(self) -> SteleError:
        return from_wire(self.reason, self.message, dict(self.facts))


@dataclass(frozen=True, slots=True)
class Appended:
    """A batch is stored at ``base_offset``; ``duplicate``: it was already, by an earlier attempt."""

    base_offset: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class AppendOutcome:
    """One result per batch, in the order of the request."""

    results: tuple[Appended | Refused, ...]


@dataclass(frozen=True, slots=True)
class FenceOutcome:
    """Every write below ``owner_epoch`` is refused from here on."""

    owner_epoch: int
    high_watermark: int
    log_start: int


@dataclass(frozen=True, slots=True)
class CursorOutcome:
    """The cursor after the command.  Its ranges are read from the partition when they are wanted: they may be
    thousands."""

    subscription: str
    ack_floor: int
    generation: int
    created: bool = False


@dataclass(frozen=True, slots=True)
class DeleteOutcome:
    """The cursor is gone; ``existed``: it was there."""

    existed: bool


@dataclass(frozen=True, slots=True)
class TrimOutcome:
    """Messages below ``log_start`` are no longer kept; ``unacked`` of them were still owed to a subscription."""

    log_start: int
    unacked: int = 0


Outcome = AppendOutcome | FenceOutcome | CursorOutcome | DeleteOutcome | TrimOutcome | Refused


# --- bytes ------------------------------------------------------------------------------------------------------------


def encode_append(owner_epoch: int, batches: Sequence[bytes]) -> bytes:
    """The entry for ``batches``, whose headers and checksums the caller has checked."""
    return _HEAD.pack(CommandKind.APPEND, owner_epoch) + b"".join(batches)


def encode(command: OwnerCommand | Trim) -> bytes:
    match command:
        case FenceOwner(epoch):
            return _HEAD.pack(CommandKind.FENCE, epoch)
        case CreateCursor(epoch, name, position):
            return (
                _HEAD.pack(CommandKind.CREATE_CURSOR, epoch) + _name(name) + _START.pack(position.start, position.value)
            )
        case ResetCursor(epoch, name, position):
            return (
                _HEAD.pack(CommandKind.RESET_CURSOR, epoch) + _name(name) + _START.pack(position.start, position.value)
            )
        case Ack(epoch, name, generation, ranges, redelivered):
            kind = CommandKind.COUNTED_ACK if redelivered else CommandKind.ACK
            head = _HEAD.pack(kind, epoch) + _name(name) + _ACK.pack(generation, len(ranges))
            acked = head + b"".join(_RANGE.pack(first, last) for first, last in ranges)
            if not redelivered:
                return acked
            counts = b"".join(_REDELIVERED.pack(*counted) for counted in redelivered)
            return acked + _COUNT.pack(len(redelivered)) + counts
        case DeleteCursor(epoch, name):
            return _HEAD.pack(CommandKind.DELETE_CURSOR, epoch) + _name(name)
        case Trim(log_start):
            return _HEAD.pack(CommandKind.TRIM, 0) + _TRIM.pack(log_start)


def _name(name: str) -> bytes:
    encoded = name.encode()
    if not 0 < len(encoded) <= NAME_BYTES_MAX:
        raise ValueError(f"a subscription's name has 1 to {NAME_BYTES_MAX} bytes, this one {len(encoded)}")
    return bytes((len(encoded),)) + encoded


def decode(payload: bytes) -> Command:
    """The command that ``payload`` holds.  Raises CommandDamaged or BatchCorrupt, and nothing else."""
    try:
        number, epoch = _HEAD.unpack_from(payload)
        kind = CommandKind(number)
        if kind is CommandKind.APPEND:
            headers = tuple(header for _, _, header in batches_of(payload))
            if not headers:
                raise CommandDamaged("an append without a batch")
            return Append(epoch, headers)
        return _decode_small(kind, epoch, payload)
    except struct.error:
        raise CommandDamaged(f"a command is cut off after {len(payload)} bytes") from None
    except CommandDamaged:
        raise
    except (ValueError, IndexError) as e:
        raise CommandDamaged(f"not a command: {e}") from None


def batches_of(payload: bytes) -> Iterator[tuple[int, int, batch.BatchHeader]]:
    """``(start, end, header)`` of each batch of an append's payload.  Headers only: checksums were checked before the
    entry was proposed, and the log checks its own frames.  Raises BatchCorrupt."""
    view = memoryview(payload)
    at, size = APPEND_HEAD_BYTES, len(payload)
    while at < size:
        if size - at < batch.HEADER_BYTES:
            raise BatchCorrupt(f"{size - at} bytes follow the last batch")
        (length,) = _BATCH_LENGTH.unpack_from(payload, at + _BATCH_LENGTH_AT)
        end = at + length
        if length < batch.HEADER_BYTES or end > size:
            raise BatchCorrupt(f"a batch says it has {length} bytes where {size - at} are left")
        yield at, end, batch.read_header(view[at:end], verify=False)
        at = end


def _decode_small(kind: CommandKind, epoch: int, payload: bytes) -> Command:
    at = _HEAD.size
    command: Command
    if kind is CommandKind.FENCE:
        command = FenceOwner(epoch)
    elif kind is CommandKind.TRIM:
        if epoch:
            raise CommandDamaged(f"a trim under the owner epoch {epoch}")
        (log_start,) = _TRIM.unpack_from(payload, at)
        at += _TRIM.size
        command = Trim(log_start)
    else:
        length = payload[at]
        name_bytes = payload[at + 1 : at + 1 + length]
        if not 0 < length <= NAME_BYTES_MAX or len(name_bytes) != length:
            raise CommandDamaged(f"a subscription's name of {length} bytes")
        name = name_bytes.decode()
        at += 1 + length
        if kind is CommandKind.DELETE_CURSOR:
            command = DeleteCursor(epoch, name)
        elif kind in (CommandKind.ACK, CommandKind.COUNTED_ACK):
            return _decode_ack(kind, epoch, name, payload[at:])
        else:
            start, value = _START.unpack_from(payload, at)
            at += _START.size
            position = Position(Start(start), value)
            if kind is CommandKind.RESET_CURSOR:
                command = ResetCursor(epoch, name, position)
            elif position.start is Start.TIMESTAMP:
                raise CommandDamaged("a cursor is not created at a timestamp")
            else:
                command = CreateCursor(epoch, name, position)
    if at != len(payload):
        raise CommandDamaged(f"{len(payload) - at} bytes follow the command")
    return command


def _decode_ack(kind: CommandKind, epoch: int, name: str, rest: bytes) -> Ack:
    generation, count = _ACK.unpack_from(rest)
    end = _ACK.size + count * _RANGE.size
    if count > ACK_RANGES_MAX or len(rest) < end:
        raise CommandDamaged(f"{count} ranges in {len(rest)} bytes")
    ranges = tuple(_RANGE.iter_unpack(rest[_ACK.size : end]))
    redelivered: tuple[tuple[int, int, int], ...] = ()
    if kind is CommandKind.COUNTED_ACK:
        (count,) = _COUNT.unpack_from(rest, end)
        begin, end = end + _COUNT.size, end + _COUNT.size + count * _REDELIVERED.size
        if not 0 < count <= REDELIVERED_RANGES_MAX or len(rest) < end:
            raise CommandDamaged(f"{count} counts of redeliveries in {len(rest)} bytes")
        redelivered = tuple(_REDELIVERED.iter_unpack(rest[begin:end]))
        if not all(n for _, _, n in redelivered):
            raise CommandDamaged("a count of 0 redeliveries")
    if len(rest) != end:
        raise CommandDamaged(f"{len(rest) - end} bytes follow the command")
    return Ack(epoch, name, generation, ranges, redelivered)
