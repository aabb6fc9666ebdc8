"""Entries come off the wire as they were put on it; what nobody can have put on it changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.door import MessageRefused
from stele.services.raft.entries import entries_of, runs_of
from stele.services.raft.storage import Entry
from tests.unit.raft.bench import Bench

RUNS = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2), st.lists(st.binary(max_size=8), max_size=5)))


@given(previous=st.integers(0, 2**40), runs=RUNS)
def test_what_is_carried_arrives(previous: int, runs: list[tuple[int, int, list[bytes]]]) -> None:
    contents = [(term, kind, payload) for term, kind, payloads in runs for payload in payloads]
    entries = [Entry(index, *content) for index, content in enumerate(contents, previous + 1)]
    made = pb.AppendEntries(prev_log_index=previous, payloads=[e.payload for e in entries], runs=runs_of(entries))
    assert entries_of(pb.AppendEntries.FromString(made.SerializeToString())) == entries
    assert len(made.runs) <= len(entries)
    assert all((a.term, a.kind) != (b.term, b.kind) for a, b in zip(made.runs, made.runs[1:], strict=False))


@pytest.mark.parametrize("counts", [[], [1], [3], [1, 2], [2**64 - 1], [2**64 - 1, 3]])
def test_runs_that_do_not_fit_are_refused(counts: list[int]) -> None:
    runs = [pb.EntryRun(term=1, count=count) for count in counts]
    with pytest.raises(ValueError, match="2 payloads"):
        entries_of(pb.AppendEntries(payloads=[b"a", b"b"], runs=runs))


def test_a_message_whose_runs_do_not_fit_is_dropped_and_the_replica_goes_on() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    follower = bench.engines[2]
    last = follower.journal.last_index
    wrong = pb.AppendEntries(
        request=10_000, prev_log_index=last, prev_log_term=follower.journal.last_term, payloads=[b"a"], runs=[]
    )
    with pytest.raises(MessageRefused):
        follower.receive(1, pb.RaftMessage(group=7, term=leader.term, append_entries=wrong))
    assert follower.journal.last_index == last
    assert not follower.failed
    bench.propose(1, b"b")
    bench.settle()
    assert follower.journal.last_index == last + 1
