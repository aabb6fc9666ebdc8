"""Bytes of snapshots: integers and byte strings in a fixed order, so that equal state has equal bytes."""

from __future__ import annotations

import struct
from array import array
from sys import byteorder

_U64 = struct.Struct(">Q")


class SnapshotDamaged(ValueError):
    """The bytes are not a snapshot of this version."""


class SnapshotEncoder:
    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def u64(self, *values: int) -> None:
        for value in values:
            self._parts.append(_U64.pack(value))

    def blob(self, data: bytes) -> None:
        self.u64(len(data))
        self._parts.append(data)

    def column(self, values: array[int]) -> None:
        """A whole array of u64."""
        copy = array("Q", values)
        if byteorder == "little":
            copy.byteswap()
        self.blob(copy.tobytes())

    def bytes(self) -> bytes:
        return b"".join(self._parts)


class SnapshotDecoder:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def u64(self) -> int:
        end = self._at + _U64.size
        if end > len(self._data):
            raise SnapshotDamaged(f"a snapshot is cut off at {self._at} of {len(self._data)} bytes")
        value: int = _U64.unpack_from(self._data, self._at)[0]
        self._at = end
        return value

    def blob(self) -> bytes:
        length = self.u64()
        end = self._at + length
        if end > len(self._data):
            raise SnapshotDamaged(f"a snapshot is cut off at {self._at} of {len(self._data)} bytes")
        data = self._data[self._at : end]
        self._at = end
        return data

    def column(self) -> array[int]:
        values = array("Q")
        data = self.blob()
        if len(data) % values.itemsize:
            raise SnapshotDamaged(f"a column of {len(data)} bytes")
        values.frombytes(data)
        if byteorder == "little":
            values.byteswap()
        return values

    @property
    def has_more(self) -> bool:
        return self._at < len(self._data)

    def end(self) -> None:
        if self._at != len(self._data):
            raise SnapshotDamaged(f"{len(self._data) - self._at} bytes follow a snapshot")
