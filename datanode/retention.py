"""What a replica does about its log's length: when it takes a snapshot, where its log may begin, which snapshots it can do without.  Pure.

Guarantee: nothing that a topic's retention keeps is given up: whatever is unknown or rounded errs towards keeping.  Ages are differences
of the store's own observed time (datanode/observed_time.py): no wall clock, and no stamp of another machine, makes a message old.

Two replicas that lead one after the other do not fight: each only ever proposes a higher start than the one in force, and a start that
is passed stays passed.

A log can only begin behind a snapshot, so what retention removes comes in steps of them; a policy that is short for the usual distance
between snapshots has them taken closer together.

Not promised: a bound on the log.  Its tail since the newest snapshot, and a segment that is begun, are always kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stele.services.raft.storage import Snapshot
from stele.services.topics import Retention

SNAPSHOTS_MAX = 12  # where a retention has to choose among them
SNAPSHOTS_KEPT = 2  # where nothing is ever removed: one to start from, one should that one be damaged
STEPS = 8  # of a retention, at least: so many snapshots within it
STEP_BYTES_MIN = 64 << 10
STEP_MS_MIN = 500

BytesAfter = Callable[[int], int]
"""Bytes of the log's entries behind an index; rather too few than too many."""


@dataclass(frozen=True, slots=True)
class SnapshotSpacing:
    """How often snapshots are taken, for the sake of a quick start."""

    snapshot_bytes: int
    snapshot_interval_ms: int


def snapshot_due(
    newest: Snapshot | None,
    applied_index: int,
    bytes_after: BytesAfter,
    retention: Retention,
    usual: SnapshotSpacing,
    since_ms: int,
    now_ms: int,
) -> bool:
    """Whether it is time for one of what is applied.  ``since_ms``: when the replica began to run, for its first.

    No more bytes of snapshots are written than of log, unless the clock asks for them."""
    behind, size, last_ms = (newest.index, newest.size, newest.taken_ms) if newest is not None else (0, 0, since_ms)
    if applied_index <= behind:
        return False
    every = spacing_of(retention, usual)
    # One that seems to be of the future (a crash lost a part of the observed time) must not hold snapshots up until that is caught up.
    if abs(now_ms - last_ms) >= every.snapshot_interval_ms:
        return True
    return bytes_after(behind) >= max(every.snapshot_bytes, size)


def spacing_of(retention: Retention, usual: SnapshotSpacing) -> SnapshotSpacing:
    """How often snapshots are taken where there is a retention to be kept too."""
    every_bytes, every_ms = usual.snapshot_bytes, usual.snapshot_interval_ms
    if retention.size_bytes:
        every_bytes = min(every_bytes, max(retention.size_bytes // STEPS, STEP_BYTES_MIN))
    if retention.age_ms:
        every_ms = min(every_ms, max(retention.age_ms // STEPS, STEP_MS_MIN))
    return SnapshotSpacing(every_bytes, every_ms)


def trim_due(
    snapshots: Sequence[Snapshot], bytes_after: BytesAfter, retention: Retention, log_start: int, now_ms: int
) -> Snapshot | None:
    """The snapshot behind which the log should begin; None: it begins where it should.

    The last one behind which there are still ``size_bytes`` of log, or the last that was taken ``age_ms`` ago: all messages below its
    mark were stored before.  The later of the two: either bound is enough."""
    best: Snapshot | None = None
    for snapshot in snapshots:
        is_long = bool(retention.size_bytes) and bytes_after(snapshot.index) >= retention.size_bytes
        is_old = bool(retention.age_ms) and snapshot.taken_ms <= now_ms - retention.age_ms
        if (is_long or is_old) and snapshot.mark > log_start:
            best = snapshot
    return best


def compaction_point(snapshots: Sequence[Snapshot], log_start: int) -> Snapshot | None:
    """Behind which of its own snapshots a replica's log may begin, now that the partition begins at ``log_start``: every
    message that is kept stands behind it."""
    reached = [s for s in snapshots if s.mark <= log_start]
    return reached[-1] if reached and log_start > 0 else None


def superfluous(
    snapshots: Sequence[Snapshot], bytes_after: BytesAfter, retention: Retention, log_start: int, is_shortened: bool
) -> set[int]:
    """Indexes of the snapshots that nobody needs, apart from those in front of the beginning, which go with the log.

    The newest two stay, to start from.  The one behind which the log begins, or may begin from now on, stays: it is what a follower
    is given that needs every message that is kept.  Between them a retention keeps those that divide it best: the one whose
    neighbours are closest goes first."""
    first = compaction_point(snapshots, log_start)
    left = [s for s in snapshots if first is None or s.index >= first.index]
    if not retention:
        return {s.index for s in left[1 if first is not None or is_shortened else 0 : -SNAPSHOTS_KEPT]}
    weights = {s.index: _weight(s, bytes_after, retention) for s in left}
    dropped = set()
    while len(left) > SNAPSHOTS_MAX:
        gaps = [weights[left[i + 1].index] - weights[left[i - 1].index] for i in range(1, len(left) - SNAPSHOTS_KEPT)]
        dropped.add(left.pop(1 + gaps.index(min(gaps))).index)
    return dropped


def _weight(snapshot: Snapshot, bytes_after: BytesAfter, retention: Retention) -> float:
    """Where it stands, in units of the retention; only differences mean something."""
    weight = 0.0
    if retention.size_bytes:
        weight -= bytes_after(snapshot.index) / retention.size_bytes
    if retention.age_ms:
        weight += snapshot.taken_ms / retention.age_ms
    return weight
