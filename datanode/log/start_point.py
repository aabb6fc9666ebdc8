"""From which snapshot a replica starts, and what its log has to do with it (H3, H8, H10).  Pure.

A log that begins behind 1 is the end of a history; its beginning must be in a snapshot.  A snapshot *covers* the log if it reaches
the log's first entry and is not ahead of its last.  So:

1. The newest snapshot came from another replica and is ahead of the log: a crash came between its naming and the log's reset.
   Nothing was promised that depends on what the log still holds, so the reset is finished.
2. A snapshot of the replica's own is ahead of the log: **damage**.  The log was synced that far before the snapshot was written, so
   entries that were promised are gone, even where the log by itself looks whole.
3. A snapshot and the log disagree about a term: **damage**.
4. The log begins behind 1 and no snapshot covers it: **damage** (H10).
5. A snapshot that ends before the log's beginning was to be removed and is.
6. A damaged snapshot is set aside if everything that it stood for is there without it: the log begins at 1, or an older whole one covers
   the log.  Else it is **damage**, although a newer one may cover the log: the oldest one is what a follower starts from that
   needs every message that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from stele.datanode.log.snapshot_format import SnapshotHeader, snapshot_name
from stele.services.errors import LogDamaged
from stele.services.raft.storage import LogStorage, Snapshot, is_ahead


@dataclass(frozen=True, slots=True)
class StartPoint:
    """What is to be done before a replica starts from ``snapshot`` (None: from an empty state)."""

    snapshot: Snapshot | None
    finish_reset: bool = False
    remove: frozenset[int] = frozenset()


def decide(log: LogStorage, whole: Sequence[SnapshotHeader], damaged: Sequence[int], folder: PurePath) -> StartPoint:
    """``whole`` oldest first; all of ``damaged`` may be set aside when this returns.  LogDamaged, and nothing is to be touched then."""
    # Rule 1 FIRST: below, the same snapshot would be damage.  What the others stood for is given up with the log.
    if whole and whole[-1].installed and is_ahead(whole[-1].snapshot, log):
        return StartPoint(whole[-1].snapshot, True, frozenset(header.snapshot.index for header in whole[:-1]))
    covering: list[Snapshot] = []
    remove: set[int] = set()
    for header in whole:
        snapshot = header.snapshot
        if snapshot.index < log.first_index - 1:  # rule 5: between its end and the log something would be missing
            remove.add(snapshot.index)
        elif is_ahead(snapshot, log):  # rules 2 and 3: to go on would forget entries that were promised
            path = folder / snapshot_name(snapshot.index)
            raise LogDamaged(
                f"{path}: the log ends at {log.last_index} or has another history there", path=path, offset=0
            )
        else:
            covering.append(snapshot)
    if log.first_index > 1 and not covering:
        named = ", ".join(snapshot_name(index) for index in damaged)
        raise LogDamaged(
            f"the log in {folder} begins at entry {log.first_index}, and no snapshot holds what was before"
            + (f"; damaged: {named}" if named else ""),
            path=folder,
            offset=0,
        )
    for index in damaged:
        # Rule 6.  One in front of the log is not needed for anything: it would be removed if it were whole.
        needed = log.first_index > 1 and index >= log.first_index - 1
        if needed and not any(snapshot.index < index for snapshot in covering):
            path = folder / snapshot_name(index)
            raise LogDamaged(f"{path}: damaged, and no older snapshot covers the log", path=path, offset=0)
    # The newest: the fewest entries to apply again.  The older ones stay for followers that need what it leaves out.
    return StartPoint(covering[-1] if covering else None, False, frozenset(remove))
