"""Right inputs for each target, from which wrong ones are made."""

from __future__ import annotations

from collections.abc import Sequence

from stele.datanode import commands
from stele.datanode.commands import EARLIEST, Ack, CreateCursor, Trim
from stele.datanode.log import frames, terms
from stele.datanode.log.segments import SegmentHeader, SegmentIndex
from stele.datanode.log.snapshot_format import SnapshotHeader
from stele.datanode.partition import PartitionState
from stele.services import batch
from stele.services.batch import BatchRecord
from stele.services.raft.storage import Entry, Members, Snapshot
from tests.fuzz.targets import SEED


def seeds() -> dict[str, Sequence[bytes]]:
    """By target."""
    run = b"".join(
        frames.encode_run([Entry(i, 1 + i // 3, i % 3, b"payload %d" % i * i) for i in range(1, 6)], SEED, True)
    )
    heads = [
        SnapshotHeader(Snapshot(7, 3, members, 9, 1_700_000_000_000, size, 0x1234), installed).to_bytes()
        for members, size, installed in (
            (Members((1, 2, 3)), 10, False),
            (Members((1, 2, 3), (4, 5)), 1 << 62, True),
            (Members(()), 0, False),
        )
    ]
    return {
        "frame": [run, run[:40], b"\0" * 100, run[30:]],
        "segment": [
            run,
            bytes(range(4, 90)) * 3,
            b"\x04\x08\x01payload-\x00\x05\x00wrong\x05\x03\x01abc",
            b"\0\5\0garb",
        ],
        "segment_header": [
            SegmentHeader(1, SEED).to_bytes(),
            SegmentHeader(900, SEED, 1, 3, 70_000, 70_200, 850).to_bytes() + run,
        ],
        "footer": [_index(1).to_bytes(), _index(4000).to_bytes()],
        "term_file": [terms.encode(0, 0), terms.encode(7, 3), terms.encode(2**64 - 1, 2**64 - 1)],
        "snapshot_header": heads,
        "snapshot_file": [heads[0] + b"0123456789", b"a state", b""],
        "transfer": [heads[0] + b"01234", b"the state of another store the", b""],
        "command": [
            commands.encode_append(3, [_batch(1), _batch(2)]),
            commands.encode(CreateCursor(3, "name", EARLIEST)),
            commands.encode(Ack(3, "name", 4, ((1, 2), (5, 9)))),
            commands.encode(Trim(77)),
        ],
        "partition": [_partition(few).encode_snapshot() for few in (0, 3, 40)],
    }


def _index(entries: int) -> SegmentIndex:
    index = SegmentIndex()
    for i in range(entries):
        index.note(100 + i, 1 + i // 1000, 2 * (i % 1500 == 7), 64 + 40 * i)
    return index


def _partition(rounds: int) -> PartitionState:
    machine = PartitionState(producers_max=20, subscriptions_max=20, ranges_max=20)
    for i in range(rounds):
        for payload in (
            commands.encode_append(1 + i // 10, [_batch(i)]),
            commands.encode(CreateCursor(1 + i // 10, f"subscription {i % 7}", EARLIEST)),
            commands.encode(Ack(1 + i // 10, f"subscription {i % 7}", 1 + i % 7, ((3 * i // 2, 3 * i // 2),))),
            commands.encode(Trim(i // 4)),
        ):
            machine.apply(machine.applied_index + 1, 1, payload)
    machine.validate()
    return machine


def _batch(i: int) -> bytes:
    return batch.encode(
        [BatchRecord(b"v%d" % i, timestamp_ms=1000 * i)] * 2, 1 + i % 5, 2 * (i // 5) + 7 * (i % 11 == 3)
    )
