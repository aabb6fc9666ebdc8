"""The follower's end of AppendEntries: what it keeps of a message, and what it answers (H1, H2, H18).

Guarantee: what was acknowledged is cut from this log only by a leader that cannot have counted it; what is committed here is what the
message that said so has verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.door import MessageRefused
from stele.services.raft.journal import Journal
from stele.services.raft.storage import Entry


@dataclass(frozen=True, slots=True)
class Conflict:
    """The log does not hold the entry before the message: where the leader should try next (H18)."""

    index: int
    term: int  # of the entries that stand against it, of which ``index`` is the first; 0: the log is too short


@dataclass(frozen=True, slots=True)
class Match:
    """The log holds the entry before the message."""

    new: Sequence[Entry]  # those that are not in the log yet, or stand where others do
    verified_index: int  # up to here the log is the leader's once ``new`` is in it
    commit_index: int


STALE = Conflict(0, 0)
"""The message is of a leader whose term is over: the answer carries the higher one (H15)."""


class Follower:
    """``request`` and ``term`` are of the message that is being answered."""

    __slots__ = ("_journal", "request", "term")

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.request = 0
        self.term = 0

    def match(self, m: pb.AppendEntries, entries: Sequence[Entry], commit_index: int) -> Conflict | Match:
        """What ``m`` of the current term, which carries ``entries``, does to the log.  Changes nothing.

        MessageRefused if it would replace what is committed, or go back to an earlier term: no leader says so, and to obey it would lose
        what was acknowledged."""
        journal = self._journal
        if m.prev_log_index > journal.last_index:
            return Conflict(journal.last_index + 1, 0)
        if m.prev_log_index >= journal.first_index and journal.term_at(m.prev_log_index) != m.prev_log_term:
            term, first = journal.term_at(m.prev_log_index), m.prev_log_index
            while first > max(commit_index + 1, journal.first_index) and journal.term_at(first - 1) == term:
                first -= 1
            return Conflict(first, term)
        # H1: an entry that is here already is skipped, and what stands behind it stays: the message may be an old one, and what
        # came since was acknowledged.  Only an entry of another term at its place cuts the log, from there on.
        skip = 0
        while skip < len(entries) and entries[skip].index <= journal.last_index and self._holds(entries[skip]):
            skip += 1
        new = entries[skip:] if skip else entries
        if new and new[0].index <= commit_index:
            raise MessageRefused(f"it would replace entry {new[0].index}, which is committed")
        if new and new[0].term < journal.term_at(new[0].index - 1):
            raise MessageRefused(f"entry {new[0].index} of term {new[0].term} would follow one of a later term")
        verified = entries[-1].index if entries else m.prev_log_index
        return Match(new, verified, self._commit(m, verified))

    def _holds(self, entry: Entry) -> bool:
        """By index and term alone: two logs with one index and term in common are the same up to there (log matching).  What a
        snapshot stands for was committed."""
        return entry.index < self._journal.first_index or self._journal.term_at(entry.index) == entry.term

    def _commit(self, m: pb.AppendEntries, verified: int) -> int:
        """H2: no further than this very message has verified.  Behind that this log may hold entries of another leader, and would apply
        them in the place of what was committed."""
        return min(m.commit_index, verified)

    def append(self, new: Sequence[Entry]) -> None:
        """Durable later: the journal keeps the order of the cut and the entries."""
        journal = self._journal
        if new[0].index <= journal.last_index:
            journal.truncate_from(new[0].index)
        for entry in new:
            journal.append(entry)

    # --- answers ----------------------------------------------------------------------------------------------------------

    def accepted(self, match_index: int, recovering: bool) -> pb.RaftMessage:
        answer = pb.AppendAnswer(
            request=self.request,
            request_term=self.term,
            success=True,
            match_index=match_index,
            recovering=recovering,
        )
        return pb.RaftMessage(append_answer=answer)

    def refused(self, conflict: Conflict, recovering: bool) -> pb.RaftMessage:
        answer = pb.AppendAnswer(
            request=self.request,
            request_term=self.term,
            conflict_index=conflict.index,
            conflict_term=conflict.term,
            recovering=recovering,
        )
        return pb.RaftMessage(append_answer=answer)
