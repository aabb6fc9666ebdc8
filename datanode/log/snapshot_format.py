"""One snapshot file: a header, then the state.

Header: magic, version, flags, index, term, mark, when it was taken (by the store's own time), size and CRC of the state, the members,
CRC of all that.  Flag INSTALLED: it came from another replica, so it may be ahead of the log (start_point.py).
"""

from __future__ import annotations

import builtins
import re
import struct
from dataclasses import dataclass
from pathlib import PurePath

from crc32c import crc32c

from stele.services.errors import LogDamaged
from stele.services.raft.storage import Members, Snapshot

_MAGIC = b"STSN"
_VERSION = 2
_DATED_BY_WALL_CLOCK = 1  # the version before: nothing is known of such a snapshot's age
UNDATED_MS = (1 << 63) - 1  # ahead of every store's time, so that it never counts as old
_INSTALLED = 1
_HEAD = struct.Struct(">4sHHQQQQQIHH")
_CRC = struct.Struct(">I")
MEMBERS_MAX = 1_000
HEADER_BYTES_MAX = _HEAD.size + 8 * MEMBERS_MAX + _CRC.size
_NAME = re.compile(r"snapshot-([0-9]{20})\.snap")


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a file says of itself."""

    snapshot: Snapshot
    installed: bool

    @property
    def bytes(self) -> int:
        members = self.snapshot.members
        return _HEAD.size + 8 * (len(members.voters) + len(members.learners)) + _CRC.size

    @property
    def file_bytes(self) -> int:
        return self.bytes + self.snapshot.size

    def to_bytes(self) -> builtins.bytes:
        s = self.snapshot
        voters, learners = s.members.voters, s.members.learners
        if len(voters) + len(learners) > MEMBERS_MAX:
            raise ValueError(f"a group has at most {MEMBERS_MAX} members, this one {len(voters) + len(learners)}")
        flags = _INSTALLED if self.installed else 0
        head = _HEAD.pack(
            _MAGIC, _VERSION, flags, s.index, s.term, s.mark, s.taken_ms, s.size, s.crc, len(voters), len(learners)
        )
        head += struct.pack(f">{len(voters) + len(learners)}Q", *voters, *learners)
        return head + _CRC.pack(crc32c(head))


def decode_header(content: bytes, path: PurePath) -> SnapshotHeader:
    """The header at the start of ``content``, which may go on behind it.  LogDamaged for anything but what ``to_bytes`` makes."""
    if len(content) < _HEAD.size + _CRC.size:
        raise LogDamaged(f"{path}: the snapshot's header is cut off after {len(content)} bytes", path=path, offset=0)
    magic, version, flags, index, term, mark, taken_ms, size, crc, voters, learners = _HEAD.unpack_from(content)
    end = _HEAD.size + 8 * (voters + learners)
    if voters + learners > MEMBERS_MAX or end + _CRC.size > len(content):
        raise LogDamaged(f"{path}: the snapshot's header is damaged", path=path, offset=0)
    if crc32c(content[:end]) != _CRC.unpack_from(content, end)[0] or magic != _MAGIC:
        raise LogDamaged(f"{path}: the snapshot's header is damaged", path=path, offset=0)
    if version == _DATED_BY_WALL_CLOCK:
        taken_ms = UNDATED_MS
    elif version != _VERSION:
        raise LogDamaged(f"{path}: snapshot version {version} is not known; accepted: {_VERSION}", path=path, offset=0)
    if flags & ~_INSTALLED:
        raise LogDamaged(f"{path}: the snapshot's header is damaged", path=path, offset=0)
    ids = struct.unpack_from(f">{voters + learners}Q", content, _HEAD.size)
    members = Members(ids[:voters], ids[voters:])
    return SnapshotHeader(Snapshot(index, term, members, mark, taken_ms, size, crc), bool(flags & _INSTALLED))


def snapshot_name(index: int) -> str:
    return f"snapshot-{index:020d}.snap"


def index_of(name: str) -> int | None:
    """The index that a file name gives; None if it does not name a snapshot."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None
