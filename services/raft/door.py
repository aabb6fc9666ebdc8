"""What a message between stores must be before a replica looks at it (H17).  Pure.

Guarantee: no message that passes makes a replica fail, or leads it where no election would lead it: numbers are in range, entries are
as a leader's log can hold them, a term is one that elections can have reached.  What does not pass is dropped and counted, and nothing
has changed: a replica that ended over it would be a voter less for one wrong sender.

What a message says of the log is checked where the log is known (services/raft/follower.py, services/raft/replication.py); it ends in the
same error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.storage import Members

NUMBER_MAX: Final = (
    1 << 62
)  # of terms and indexes: none that a group can reach; one more always fits in what carries them
LEAP_MAX: Final = 1 << 32  # of a member's term over ours: an election every ten milliseconds for a year
STRANGERS_LEAP_MAX: Final = 1 << 20  # of anybody else's, who may be a member that this replica has not heard of
KIND_MAX: Final = 0x7E  # of the log's format


class MessageRefused(Exception):
    """No replica of this group can have said it.  The message is dropped."""


def check(sender: int, message: pb.RaftMessage, term: int, members: Members) -> None:
    """For a replica in ``term``.  Raises MessageRefused."""
    if message.term > term:
        leap = LEAP_MAX if sender in members.voters or sender in members.learners else STRANGERS_LEAP_MAX
        if message.term > min(term + leap, NUMBER_MAX):
            raise MessageRefused(f"term {message.term} is out of reach from term {term}")
    body = message.WhichOneof("body")
    if body is None:
        raise MessageRefused("it says nothing")
    if (reason := _CHECKS[body](message)) is not None:
        raise MessageRefused(reason)


def _append_entries(message: pb.RaftMessage) -> str | None:
    m, term = message.append_entries, message.term
    count, at_least = 0, m.prev_log_term
    for run in m.runs:
        if not at_least <= run.term <= term:
            return f"an entry of term {run.term} after one of term {at_least}, from a leader of term {term}"
        if not run.count or run.kind > KIND_MAX:
            return f"{run.count} entries of kind {run.kind}"
        count, at_least = count + run.count, run.term
    if count != len(m.payloads):
        return f"{len(m.payloads)} payloads for {count} entries"
    return _out_of_range(m.prev_log_index + count, m.commit_index, m.recovered_at, m.request)


def _append_answer(message: pb.RaftMessage) -> str | None:
    m = message.append_answer
    return _out_of_range(m.match_index, m.conflict_index, m.conflict_term, m.request)


def _request_vote(message: pb.RaftMessage) -> str | None:
    m = message.request_vote
    if m.last_log_term > message.term:
        return f"a log that ends in term {m.last_log_term}, of a store in term {message.term}"
    return _out_of_range(m.last_log_index)


def _vote_answer(message: pb.RaftMessage) -> str | None:
    m = message.vote_answer
    return _out_of_range(m.voted_term)


def _snapshot_offer(message: pb.RaftMessage) -> str | None:
    m = message.snapshot_offer
    snapshot = m.snapshot
    if not snapshot.index or snapshot.term > message.term:
        return f"a snapshot of entry {snapshot.index} of term {snapshot.term}, from a leader of term {message.term}"
    if not snapshot.members.voters or 0 in snapshot.members.voters:
        return f"a snapshot of a group with the voters {list(snapshot.members.voters)}"
    return _out_of_range(snapshot.index, snapshot.mark, snapshot.size, m.recovered_at, m.request)


def _any(message: pb.RaftMessage) -> str | None:
    return None


def _out_of_range(*numbers: int) -> str | None:
    largest = max(numbers)
    return f"{largest} is no index, nor a term" if largest > NUMBER_MAX else None


_CHECKS: Final[Mapping[str, Callable[[pb.RaftMessage], str | None]]] = {
    "append_entries": _append_entries,
    "append_answer": _append_answer,
    "request_vote": _request_vote,
    "vote_answer": _vote_answer,
    "snapshot_offer": _snapshot_offer,
    "timeout_now": _any,
    "awake": _any,
}
