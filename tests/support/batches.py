"""Batches that no producer of ours makes."""

from __future__ import annotations

from crc32c import crc32c

from stele.services.batch import HEADER_BYTES, BatchRecord, encode

_CRC_AT, _CRC_COVERS_FROM = 8, 12


def undecodable_from(bad: int, count: int) -> bytes:
    """``count`` records of one byte under a right checksum, of which number ``bad`` says that it is longer than the batch."""
    content = bytearray(encode([BatchRecord(b"%d" % i, timestamp_ms=7) for i in range(count)]))
    record_bytes = (len(content) - HEADER_BYTES) // count
    length_at = HEADER_BYTES + bad * record_bytes + 8  # behind the timestamp and the key's length
    content[length_at : length_at + 4] = (1 << 20).to_bytes(4, "big")
    content[_CRC_AT:_CRC_COVERS_FROM] = crc32c(bytes(content[_CRC_COVERS_FROM:])).to_bytes(4, "big")
    return bytes(content)
