"""Whoever looks before it proposes leaves the state as the entries alone make it: replicas that do not look hold the same."""

from __future__ import annotations

from stele.datanode import commands
from stele.datanode.commands import Appended
from stele.datanode.partition import PartitionState
from stele.services import batch


def test_asking_for_a_duplicate_changes_no_state() -> None:
    partition = PartitionState()
    batches = [batch.encode([batch.BatchRecord(b"x")], producer, 0) for producer in (7, 8)]
    for index, stored in enumerate(batches, 2):
        partition.apply(index, 1, commands.encode_append(1, [stored]))
    before = partition.encode_snapshot()
    known = partition.producers.check(batch.read_header(batches[0]))
    assert isinstance(known, Appended)
    assert known.duplicate
    assert partition.encode_snapshot() == before
