"""Entries as AppendEntries carries them: payloads in a row, and runs of equal term and kind.

Guarantee: ``entries_of`` gives what ``runs_of`` and the payloads were made from; what cannot have been made so is a ValueError.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.storage import Entry


class Batch:
    """Entries in a row, ready to be put into any number of messages."""

    __slots__ = ("payloads", "runs", "size")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.payloads = [entry.payload for entry in entries]
        self.runs = runs_of(entries)
        self.size = sum(map(len, self.payloads))


def runs_of(entries: Sequence[Entry]) -> list[pb.EntryRun]:
    runs: list[pb.EntryRun] = []
    term, kind, count = 0, 0, 0
    for entry in entries:
        if entry.term == term and entry.kind == kind:
            count += 1
            continue
        if count:
            runs.append(pb.EntryRun(term=term, kind=kind, count=count))
        term, kind, count = entry.term, entry.kind, 1
    if count:
        runs.append(pb.EntryRun(term=term, kind=kind, count=count))
    return runs


def entries_of(m: pb.AppendEntries) -> list[Entry]:
    """What ``m`` carries, as entries behind ``m.prev_log_index``."""
    return entries_from(m.prev_log_index + 1, m.payloads, m.runs)


def entries_from(first: int, payloads: Sequence[bytes], runs: Sequence[pb.EntryRun]) -> list[Entry]:
    """As entries from ``first`` on."""
    if sum(run.count for run in runs) != len(payloads):
        raise ValueError(f"{len(payloads)} payloads in runs of {[run.count for run in runs]}")
    entries: list[Entry] = []
    left, index = iter(payloads), first
    for run in runs:
        term, kind = run.term, run.kind
        entries += [Entry(at, term, kind, payload) for at, payload in enumerate(islice(left, run.count), index)]
        index += run.count
    return entries
