"""The seam to PySyncObj 0.3.17: the only file that knows its names.

What stays the library's: whom a replica may vote for, its terms, its states, and how a leader begins (its first own
entry).  It gets our journal for its log and an outlet for its messages; it opens no socket, starts no thread and writes
no file.  Nothing of it is overridden or replaced: what we do not want of it we do not call.

Time is no part of the seam.  The library reads the process's clock, and only ``_onTick``, which is not called here,
looks at what it noted (its election deadline, who answered when).  Ours is in services/raft/election.py and
progress.py, passed in with every event, so that replicas of one process may live in different times, as they do in the
simulator.

``RELIED_UPON`` is pinned by a test to the source that we read.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from stele.services.raft.journal import Journal
from stele.services.raft.state import RaftState
from stele.services.raft.storage import NO_OP, Entry

RELIED_UPON: Final = (
    "__init__",
    "_SyncObj__onMessageReceived",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__setState",
    "_SyncObj__onLeaderChanged",
    "_SyncObj__getCurrentLogIndex",
    "_SyncObj__getCurrentLogTerm",
    "_SyncObj__generateRaftTimeout",
    "_SyncObj__sendAppendEntries",
)
_STATES: Final = (RaftState.FOLLOWER, RaftState.CANDIDATE, RaftState.LEADER)  # by the library's numbers
_CONF: Final = SyncObjConf(  # one for all replicas: 2 KiB each otherwise
    autoTick=False,
    appendEntriesUseBatch=True,
    dynamicMembershipChange=False,
    journalFile=None,
    pollerType="select",
    useFork=False,
)


@cache
def _node(store_id: int) -> Node:
    """A store as the library knows it: one object for all groups."""
    return Node(store_id)


class _Outlet(Transport):  # type: ignore[misc]
    """The library's network: what arrives for it goes in here, what it sends comes out."""

    ready = True

    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.sent: list[str] = []

    def deliver(self, sender: int, message: dict[str, Any]) -> list[str]:
        """The kinds of what the library sends in answer, all to ``sender``."""
        self.sent = []
        self._onMessageReceived(_node(sender), message)
        return self.sent

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append(message["type"])
        return True

    def destroy(self) -> None:
        return None


class RaftCore:
    """The library's replica, typed.  ``state`` and ``term`` are its own, as of its last word."""

    __slots__ = ("_journal", "_library", "_outlet", "_store_id", "state", "term")

    def __init__(self, store_id: int, journal: Journal) -> None:
        self._store_id = store_id
        self._journal = journal
        self._outlet = _Outlet()
        self.state = RaftState.FOLLOWER
        self.term = 0
        self._library = SyncObj(
            _node(store_id),
            [],  # it counts nobody: majorities are ours (services/raft/quorum.py)
            _CONF,
            transport=self._outlet,
        )
        self._library._poller = None  # of sockets, of which it has none
        self._library._SyncObj__properies = frozenset()  # names for its dumps, which are not made: 8 KiB a group
        self._library._SyncObj__raftLog = _LibraryLog(self, journal)
        if journal.last_index == 0:
            journal.append(Entry(1, 0, NO_OP, b""))  # as the library begins a log: the same on every replica
        self._library._SyncObj__setCurrentTerm(max(journal.term, journal.last_term), journal.voted_for or None)

    def grants_vote(self, candidate: int, last_log_index: int, last_log_term: int) -> bool:
        """Whether ``candidate`` gets this replica's vote in the current term: nobody else has it, and the candidate's
        log is not behind.  The vote is in the journal then, not yet on the disk."""
        ask = {
            "type": "request_vote",
            "term": self.term,
            "last_log_index": last_log_index,
            "last_log_term": last_log_term,
        }
        return self._outlet.deliver(candidate, ask) == ["response_vote"]

    def follow(self, leader: int) -> None:
        """``leader`` leads the current term: whoever campaigned in it has lost."""
        self._outlet.deliver(leader, {"type": "append_entries", "term": self.term, "commit_index": 0})
        self._read_state()

    def campaign(self) -> None:
        """A term of its own, with this replica's vote for itself."""
        self._library._SyncObj__setState(_STATES.index(RaftState.CANDIDATE))
        self._library._SyncObj__setCurrentTerm(self.term + 1, self._store_id)
        self._read_state()

    def lead(self) -> None:
        """Leader of the current term, with a first entry of its own at the end of the log."""
        self._library._SyncObj__onBecomeLeader()
        self._read_state()

    def step_down(self, term: int) -> None:
        """A follower, of nobody known; a higher ``term`` is one in which it has not voted."""
        if term > self.term:
            self._library._SyncObj__setCurrentTerm(term, None)
        self._library._SyncObj__setState(_STATES.index(RaftState.FOLLOWER))
        self._read_state()

    def _read_state(self) -> None:
        self.state = _STATES[self._library._SyncObj__raftState]

    def validate(self) -> None:
        assert self.state is _STATES[self._library._SyncObj__raftState], self.state
        assert self.term == self._library.raftCurrentTerm >= self._journal.last_term, (
            self.term,
            self._journal.last_term,
        )
        assert self.term == max(self._journal.term, self._journal.last_term)


class _LibraryLog:
    """The journal as the library asks for it: the newest entry, a first entry to begin a term with, the term and the
    vote."""

    __slots__ = ("_core", "_journal")

    def __init__(self, core: RaftCore, journal: Journal) -> None:
        self._core = core
        self._journal = journal

    def __getitem__(self, position: int) -> tuple[bytes, int, int]:
        assert position == -1, position
        return b"", self._journal.last_index, self._journal.last_term

    def add(self, command: bytes, index: int, term: int) -> None:
        self._journal.append(Entry(index, term, command[0], bytes(command[1:])))

    def setCurrentTerm(self, term: int, voted_for: int | None) -> None:
        self._core.term = term
        self._journal.store_term(term, voted_for or 0)

    def setRaftCommitIndex(self, index: int) -> None:
        """Nothing: a commit index on disk is no promise (H9), and the library's own is not asked for."""
