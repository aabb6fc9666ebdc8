"""The wire and disk form of a batch of messages: encoded once by the producer, opaque bytes from there to the consumer.  Pure.

Layout, big-endian::

    magic u16 = 0x5374 | version u8 = 1 | flags u8 | length u32 | crc32c u32 | record_count u32 |
    producer_id u64 | base_sequence u64 | timestamp_ms u64 | records

``length`` counts every byte of the batch, header included; ``crc32c`` covers everything after itself.  ``records`` is, per record,
``timestamp_delta_ms u32 | key_length i32 (-1: none) | value_length u32 | header_count u16 | key | value | headers``, a header being
``name_length u16 | name (UTF-8) | value_length u32 | value``.  ``producer_id`` 0 means: not idempotent, never checked for duplicates.

A sequence counts the messages of its producer in its low 40 bits, above them the *producer epoch*.  Where a producer cannot go on, for an
earlier message may be stored or may not, it begins its next epoch at the count 0: from the first batch of that on, nothing of the epochs
before is stored any more (after Kafka's idempotent producer, KIP-360).

Brokers and datanodes call :func:`read_header`, and a broker :func:`check` before it stores a batch; neither decodes records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crc32c import crc32c

from stele.services.errors import BatchCorrupt

MAGIC = 0x5374
VERSION = 1
_HEADER = struct.Struct(">HBBIIIQQQ")
_CRC_COVERS_FROM = 12
HEADER_BYTES = _HEADER.size
_RECORD = struct.Struct(">IiIH")
EPOCH_SEQUENCES = 1 << 40  # of a producer's epoch; a multiple of it begins one
SEQUENCE_END = 1 << 64
DELTA_MS_MAX = (1 << 32) - 1  # between the oldest message of a batch and any other
TIMESTAMP_MS_MAX = 253_402_300_799_999  # the last millisecond of the year 9999, which calendars can show
_NAME = struct.Struct(">H")
_VALUE = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One message as the producer gave it."""

    value: bytes
    key: bytes | None = None
    headers: dict[str, bytes] = field(default_factory=dict)
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """What brokers and datanodes may know of a batch."""

    length: int
    record_count: int
    producer_id: int
    base_sequence: int
    timestamp_ms: int

    @property
    def last_sequence(self) -> int:
        return self.base_sequence + self.record_count - 1

    def follows(self, expected: int) -> bool:
        """Whether the batch may come next of a producer of which ``expected`` is due: it goes on from there, or begins a later epoch."""
        return self.base_sequence == expected or (
            self.base_sequence > expected and self.base_sequence % EPOCH_SEQUENCES == 0
        )


def encode(records: Sequence[BatchRecord], producer_id: int = 0, base_sequence: int = 0) -> bytes:
    """The bytes of a batch holding ``records``, at least one."""
    if not records:
        raise ValueError("a batch holds at least one record")
    first_ms = min(r.timestamp_ms for r in records)
    parts: list[bytes] = []
    for r in records:
        key = r.key if r.key is not None else b""
        parts.append(
            _RECORD.pack(r.timestamp_ms - first_ms, len(key) if r.key is not None else -1, len(r.value), len(r.headers))
        )
        parts.append(key)
        parts.append(r.value)
        for name, value in r.headers.items():
            encoded = name.encode()
            parts += (_NAME.pack(len(encoded)), encoded, _VALUE.pack(len(value)), value)
    body = b"".join(parts)
    length = HEADER_BYTES + len(body)
    head = _HEADER.pack(MAGIC, VERSION, 0, length, 0, len(records), producer_id, base_sequence, first_ms)
    crc = crc32c(body, crc32c(head[_CRC_COVERS_FROM:]))
    return _HEADER.pack(MAGIC, VERSION, 0, length, crc, len(records), producer_id, base_sequence, first_ms) + body


def read_header(batch: bytes | memoryview, *, verify: bool = True) -> BatchHeader:
    """The header of a whole batch; ``verify`` also checks the checksum.  Raises BatchCorrupt."""
    if len(batch) < HEADER_BYTES:
        raise BatchCorrupt(f"a batch has at least {HEADER_BYTES} bytes, this one {len(batch)}")
    magic, version, flags, length, crc, count, producer_id, sequence, timestamp_ms = _HEADER.unpack_from(batch)
    if magic != MAGIC:
        raise BatchCorrupt(f"a batch starts with {MAGIC:#06x}, this one with {magic:#06x}")
    if version != VERSION or flags:
        raise BatchCorrupt(
            f"batch version {version} with flags {flags} is not known; accepted: version {VERSION}, flags 0"
        )
    if length != len(batch):
        raise BatchCorrupt(f"the batch says it has {length} bytes and has {len(batch)}")
    if not 0 < count <= (length - HEADER_BYTES) // _RECORD.size:
        raise BatchCorrupt(f"a batch of {length} bytes does not hold {count} records")
    if verify and crc32c(memoryview(batch)[_CRC_COVERS_FROM:].toreadonly()) != crc:
        raise BatchCorrupt("the batch's checksum does not fit its bytes")
    return BatchHeader(length, count, producer_id, sequence, timestamp_ms)


def check(batch: bytes) -> BatchHeader:
    """The header of a batch that :func:`decode` can read: header, checksum, and where every record lies.  Raises BatchCorrupt.

    Less than a third of what decoding costs: nothing is copied, and only names of headers are looked into."""
    header = read_header(batch)
    at, latest_ms, unpack, size = HEADER_BYTES, 0, _RECORD.unpack_from, _RECORD.size
    try:
        for _ in range(header.record_count):
            delta_ms, key_length, value_length, header_count = unpack(batch, at)
            at += size + value_length + (key_length if key_length > 0 else 0)
            if delta_ms > latest_ms:
                latest_ms = delta_ms
            if header_count:
                at = _behind_headers(batch, at, header_count)
    except (struct.error, UnicodeDecodeError) as e:
        raise BatchCorrupt(f"a record does not fit the batch: {e}") from None
    if at != len(batch):
        raise BatchCorrupt(f"the records end at {at} of {len(batch)} bytes")
    if header.timestamp_ms + latest_ms > TIMESTAMP_MS_MAX:
        raise BatchCorrupt(
            f"a message's time lies beyond the year 9999: {header.timestamp_ms + latest_ms} ms since 1970"
        )
    return header


def _behind_headers(batch: bytes, at: int, count: int) -> int:
    for _ in range(count):
        (length,) = _NAME.unpack_from(batch, at)
        name, at = _take(batch, at + _NAME.size, length)
        name.decode()
        (length,) = _VALUE.unpack_from(batch, at)
        at += _VALUE.size + length
    return at


def decode(batch: bytes) -> list[BatchRecord]:
    """The records of a batch.  Raises BatchCorrupt for anything but what :func:`encode` makes."""
    header = read_header(batch)
    return list(_records(batch, header))


def decode_readable(batch: bytes) -> tuple[list[BatchRecord], BatchCorrupt | None]:
    """The records before the first that cannot be decoded, and why that one cannot; None: they are all there."""
    records: list[BatchRecord] = []
    try:
        records.extend(_records(batch, read_header(batch)))
    except BatchCorrupt as e:
        return records, e
    return records, None


def is_consistent(batch: bytes) -> bool:
    """Whether the header's count and the records fit one another, whatever the checksum says."""
    try:
        for _ in _records(batch, read_header(batch, verify=False)):
            pass
    except BatchCorrupt:
        return False
    return True


def _records(batch: bytes, header: BatchHeader) -> Iterator[BatchRecord]:
    at = HEADER_BYTES
    try:
        for _ in range(header.record_count):
            delta_ms, key_length, value_length, header_count = _RECORD.unpack_from(batch, at)
            at += _RECORD.size
            key = None
            if key_length >= 0:
                key, at = _take(batch, at, key_length)
            value, at = _take(batch, at, value_length)
            headers: dict[str, bytes] = {}
            for _ in range(header_count):
                (length,) = _NAME.unpack_from(batch, at)
                name, at = _take(batch, at + _NAME.size, length)
                (length,) = _VALUE.unpack_from(batch, at)
                headers[name.decode()], at = _take(batch, at + _VALUE.size, length)
            yield BatchRecord(value, key, headers, header.timestamp_ms + delta_ms)
    except (struct.error, UnicodeDecodeError) as e:
        raise BatchCorrupt(f"a record does not fit the batch: {e}") from None
    if at != len(batch):
        raise BatchCorrupt(f"{len(batch) - at} bytes follow the last record")


def _take(batch: bytes, at: int, length: int) -> tuple[bytes, int]:
    end = at + length
    if end > len(batch):
        raise BatchCorrupt("a record reaches beyond the batch")
    return bytes(batch[at:end]), end
