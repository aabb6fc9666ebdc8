"""Wrong on purpose (H10): the log is reset behind a snapshot of the replica's own that is ahead of it, and its messages are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stele.datanode.log import start_point
from stele.datanode.log.snapshot_format import SnapshotHeader
from stele.services.raft.storage import LogStorage


def decide(
    log: LogStorage, whole: Sequence[SnapshotHeader], damaged: Sequence[int], folder: Path
) -> start_point.StartPoint:
    return start_point.decide(log, [replace(header, installed=True) for header in whole], damaged, folder)
