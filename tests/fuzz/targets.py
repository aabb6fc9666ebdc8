"""What reads bytes that a crash, a bad disk or another store may have made: for any input the typed error, or exactly what was written.

Each target takes bytes and raises where a decoder does anything else: another exception, or taking for right what it would write
differently.  Checksums stand before most of what there is to decode, so a target also reads its input with the right checksum put in.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from crc32c import crc32c

from stele.datanode import commands
from stele.datanode.log import SegmentLog, SnapshotFiles, frames, terms
from stele.datanode.log.segments import HEADER_BYTES, SegmentHeader, SegmentIndex, read_header, segment_name
from stele.datanode.log.snapshot_format import SnapshotHeader, decode_header, snapshot_name
from stele.datanode.partition import PartitionState
from stele.datanode.snapshot_codec import SnapshotDamaged
from stele.services.errors import BatchCorrupt, LogDamaged
from stele.services.raft.storage import Entry, Members, Snapshot
from tests.support.disks import SimulatedDisk

FOLDER = Path("/groups/1")
SEED = 0x1234_5678


def with_checksum(content: bytes) -> bytes:
    """``content`` with its last four bytes made the CRC of the others."""
    return content[:-4] + crc32c(content[:-4]).to_bytes(4, "big") if len(content) >= 4 else content


def disk_with(name: str, content: bytes) -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.makedirs(FOLDER)
    disk.create(FOLDER / name)
    disk.damage(FOLDER / name, lambda stored: stored.extend(content))
    return disk


# --- the log --------------------------------------------------------------------------------------------------------


def frame(content: bytes) -> None:
    found = frames.frame_at(content, 0, SEED)
    if found is not None:
        flag = frames.SYNCED_BEFORE if found.synced_before else 0
        payload = content[frames.HEAD_BYTES : found.end]
        head = frames.encode(found.index, found.term, found.kind | flag, payload, SEED)
        assert head + payload == content[: found.end], "another frame would be written"
    for index in (1, int.from_bytes(content[:7], "big") + 1):
        with suppress(frames.SearchExhausted):
            for later in frames.later_frames(content, 0, SEED, index):
                assert frames.frame_at(content, later.start, SEED) == later


def segment(content: bytes) -> None:
    """A log of one segment: its header, then frames and garbage as ``content`` says."""
    header = SegmentHeader(1, SEED)
    tail, prefix = _frames_of(content)
    for behind in (content, tail):
        disk = disk_with(segment_name(1), header.to_bytes() + behind)
        try:
            log = SegmentLog(FOLDER, disk, disk_reserve_bytes=0)
        except LogDamaged:
            continue
        found = log.read(1, log.last_index, 1 << 30)
        assert found == _prefix_of(behind), "other entries than those at the beginning"
        assert found == prefix or behind is content, "other entries than those that were put there"
        assert log.memberships() == [e for e in found if e.kind == 2]
        assert log.bytes == sum(frames.HEAD_BYTES + len(e.payload) for e in found)


def _prefix_of(content: bytes) -> list[Entry]:
    """The entries at the beginning of ``content``, found one by one."""
    entries: list[Entry] = []
    term = at = 0
    while (found := frames.frame_at(content, at, SEED)) is not None:
        if found.index != len(entries) + 1 or found.term < term or found.kind == frames.FOOTER:
            break
        entries.append(Entry(found.index, found.term, found.kind, content[at + frames.HEAD_BYTES : found.end]))
        term, at = found.term, found.end
    return entries


def _frames_of(content: bytes) -> tuple[bytes, list[Entry]]:
    """Right frames and wrong bytes in turn, and the entries that a log of them begins with."""
    parts: list[bytes] = []
    prefix: list[Entry] = []
    index, term, whole, at = 1, 0, True, 0
    while at + 2 < len(content):
        what, size, value = content[at], content[at + 1] % 40, content[at + 2]
        payload = content[at + 3 : at + 3 + size]
        at += 3 + size
        match what % 8:
            case 0:  # bytes of no frame
                parts.append(payload)
                whole = whole and not payload
                continue
            case 1:  # a right frame that does not follow
                index += value % 3
                whole = whole and value % 3 == 0
            case 2:
                whole = whole and value >= term
                term = value
            case 3:
                parts.append(frames.encode(index, term, frames.FOOTER, payload, SEED) + payload)
                whole = False
                continue
            case _:
                pass
        flag = frames.SYNCED_BEFORE if value % 2 else 0
        kind = value % 3
        parts.append(frames.encode(index, term, kind | flag, payload, SEED) + payload)
        if whole:
            prefix.append(Entry(index, term, kind, payload))
        index += 1
    return b"".join(parts), prefix


def segment_header(content: bytes) -> None:
    for candidate in (content, with_checksum(content[:HEADER_BYTES])):
        base = int.from_bytes(candidate[12:20], "big")
        try:
            header = read_header(candidate, FOLDER / segment_name(base))
        except LogDamaged:
            continue
        assert header.to_bytes() == candidate[:HEADER_BYTES], "another header would be written"
        with suppress(LogDamaged):
            SegmentLog(FOLDER, disk_with(segment_name(base), candidate), disk_reserve_bytes=0).validate()


def footer(content: bytes) -> None:
    index = SegmentIndex.from_bytes(content)
    assert index is None or index.to_bytes() == content, "another footer would be written"


def term_file(content: bytes) -> None:
    for candidate in (content, with_checksum(content)):
        with suppress(LogDamaged):
            assert terms.encode(*terms.decode(candidate, FOLDER)) == candidate, "another file would be written"


# --- snapshots ------------------------------------------------------------------------------------------------------


def snapshot_header(content: bytes) -> None:
    for candidate in (content, with_checksum(content)):
        with suppress(LogDamaged):
            header = decode_header(candidate, FOLDER)
            assert header.to_bytes() == candidate[: header.bytes], "another header would be written"


def snapshot_file(content: bytes) -> None:
    """Under a snapshot's name; as it is, and with a right header before it."""
    of_content = Snapshot(7, 3, Members((1, 2, 3)), 9, 11, len(content), crc32c(content))
    claims = int.from_bytes(content[:8], "big")
    for header in (of_content, replace(of_content, size=claims), replace(of_content, crc=claims & 0xFFFF_FFFF), None):
        head = SnapshotHeader(header, False).to_bytes() if header is not None else b""
        files = SnapshotFiles(FOLDER, disk_with(snapshot_name(7), head + content))
        assert len(files.snapshots) + len(files.damaged) == 1
        for snapshot in files.snapshots:
            for read in (files.read, lambda index, files=files: files.open(index).read(0, 1 << 62)):
                try:
                    state = read(snapshot.index)
                except LogDamaged:
                    continue
                assert (len(state), crc32c(state)) == (snapshot.size, snapshot.crc)
                assert content.endswith(state)


def transfer(content: bytes) -> None:
    """What a restarted process finds of a transfer, and goes on with."""
    state = b"the state of another store " * 20
    wanted = Snapshot(7, 3, Members((1, 2), (9,)), 9, 11, len(state), crc32c(state))
    head = SnapshotHeader(wanted, True).to_bytes()
    for found in (content, head + content, with_checksum(content), head[: len(content)]):
        files = SnapshotFiles(FOLDER, disk_with("incoming.part", found))
        at = files.staged(wanted)
        assert 0 <= at <= wanted.size
        files.stage(wanted, at, state[at:])
        try:
            assert files.check_staged(wanted) == state
        except LogDamaged:
            assert files.staged(wanted) == 0
            assert found.startswith(head), "what was staged of no right header was kept"
            files.stage(wanted, 0, state)
        files.install_staged(wanted)
        assert files.read(7) == state


def command(content: bytes) -> None:
    with suppress(commands.CommandDamaged, BatchCorrupt):
        decoded = commands.decode(content)
        assert isinstance(decoded, commands.Append) or commands.encode(decoded) == content, "another would be written"


def partition(content: bytes) -> None:
    machine = PartitionState(producers_max=20, subscriptions_max=20, ranges_max=20)
    before = machine.encode_snapshot()
    try:
        machine.restore(content)
    except SnapshotDamaged:
        assert machine.encode_snapshot() == before, "refused, and changed all the same"
        return
    machine.validate()
    assert machine.encode_snapshot() == content, "another snapshot would be written"


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        frame,
        segment,
        segment_header,
        footer,
        term_file,
        snapshot_header,
        snapshot_file,
        transfer,
        command,
        partition,
    )
}
