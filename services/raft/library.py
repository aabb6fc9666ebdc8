"""The seam to PySyncObj 0.3.17: what of its private surface is used, what is replaced, and what it is given instead of a world.

The library's replica gets our journal for its log, an outlet for its messages and the caller's clock; it opens no socket, starts no
thread and writes no file.  ``OVERRIDDEN`` and ``RELIED_UPON`` are pinned by a test to the source that we read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pysyncobj.syncobj as _library
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from stele.services.errors import SteleError
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.journal import Journal
from stele.services.raft.membership import is_majority
from stele.services.raft.storage import Members

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2  # the library's states
STATE_NAMES: Final = {FOLLOWER: "follower", CANDIDATE: "candidate", LEADER: "leader"}

OVERRIDDEN: Final = (
    "_SyncObj__onMessageReceived",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__sendNextNodeIdx",
    "_SyncObj__generateRaftTimeout",
    "_onTick",
)
RELIED_UPON: Final = (
    "__init__",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__setState",
    "_SyncObj__onNodeConnected",
    "_SyncObj__onNodeDisconnected",
    "_SyncObj__getCurrentLogIndex",
    "_SyncObj__getCurrentLogTerm",
    "_SyncObj__getEntries",
    "_SyncObj__deleteEntriesFrom",
    "_SyncObj__onLeaderChanged",
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Raft's times.  A follower campaigns after ``election_min_s..election_max_s`` without its leader; a leader without a majority
    for ``election_max_s`` steps down."""

    heartbeat_s: float = 0.15
    election_min_s: float = 1.0
    election_max_s: float = 2.0
    notice_s: float = 0.01  # how late followers may learn of a commit when nothing else is said to them
    refused_min_s: float = 0.02  # a leader's process is known to be gone: campaign after this much, at random
    refused_max_s: float = 0.12
    retry_min_s: float = 0.2  # a candidate that got no majority (a split vote) tries again after this much, at random
    retry_max_s: float = 0.4
    idle_s: float = 1.0  # a group to which nothing has happened for this long falls asleep


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and the journal position that must be synced before it leaves."""

    to: int
    message: pb.RaftMessage
    after: int


@cache
def node_of(store_id: int) -> Node:
    """A store as the library knows it: one object for all groups, found in its sets and dicts without a comparison."""
    return Node(store_id)


class _Poller:
    """The library's socket poller, of which a replica without sockets has no use."""

    def poll(self, timeout: float) -> None:
        return None


class _Outlet(Transport):  # type: ignore[misc]
    """Where the library's own messages come out."""

    def __init__(self, replica: Library) -> None:
        super().__init__(None, None, None)
        self._replica = replica

    ready = True

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self._replica._said_by_library(node.id, message)
        return True

    def destroy(self) -> None:
        return None


_now: Callable[[], float] = _library.monotonicTime
_create_journal = _library.createJournal
_create_poller = _library.createPoller
_library.monotonicTime = lambda: _now()
_library.createJournal = lambda given: given if isinstance(given, Journal) else _create_journal(given)
_library.createPoller = lambda kind: _Poller() if kind == "none" else _create_poller(kind)


class Library(SyncObj):  # type: ignore[misc]
    """PySyncObj's replica with clean names for what we read of it.  Not used by itself: see services/raft/engine.py."""

    def __init__(
        self,
        group_id: int,
        store_id: int,
        journal: Journal,
        now: Callable[[], float],
        rng: random.Random,
        timing: Timing,
    ) -> None:
        self.group_id = group_id
        self.store_id = store_id
        self.journal = journal
        self.timing = timing
        self.failed: SteleError | None = None
        self.on_change: Callable[[], None] = lambda: None
        self._now = now
        self._rng = rng
        self._outbox: list[Outgoing] = []
        self._enter()
        super().__init__(
            node_of(store_id),
            [],
            SyncObjConf(
                autoTick=False,
                appendEntriesUseBatch=True,
                appendEntriesPeriod=timing.heartbeat_s,
                raftMinTimeout=timing.election_min_s,
                raftMaxTimeout=timing.election_max_s,
                connectionTimeout=max(3.5, timing.election_max_s),
                dynamicMembershipChange=False,
                journalFile=journal,
                pollerType="none",
                useFork=False,
                onStateChanged=self._state_changed,
            ),
            transport=_Outlet(self),
        )
        self._SyncObj__properies: frozenset[str] = frozenset()  # names for its dumps, which are not made: 8 KiB a group
        self._follow_members()

    @property
    def members(self) -> Members:
        """Those in force: of the newest membership entry in the log (H6)."""
        return self.journal.members.current

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def state(self) -> str:
        return "failed" if self.failed else STATE_NAMES[self._SyncObj__raftState]

    @property
    def is_leader(self) -> bool:
        return not self.failed and self.__dict__.get("_SyncObj__raftState") == LEADER

    @property
    def leader(self) -> int:
        """Store id of the leader this replica follows, or is; 0 when none is known."""
        node = self._SyncObj__raftLeader
        return node.id if node is not None else 0

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    def take_ready(self) -> list[Outgoing]:
        """Messages that may leave now.  PERSIST BEFORE PROMISE: the others wait for the journal."""
        if not self._outbox:
            return []
        synced = self.journal.synced_position
        ready = [o for o in self._outbox if o.after <= synced]
        if ready:
            self._outbox = [o for o in self._outbox if o.after > synced]
        return ready

    # --- for the parts above ------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        global _now
        _now = self._now

    def _follow_members(self) -> None:
        """Tells the library who is counted (its other nodes) and who only listens (its read-only nodes)."""
        members, own = self.members, self.store_id
        self._SyncObj__otherNodes = {node_of(store) for store in members.voters if store != own}
        self._SyncObj__readonlyNodes = {node_of(store) for store in members.learners if store != own}

    def _other_voters(self) -> list[int]:
        return [store for store in self.members.voters if store != self.store_id]

    def _is_connected(self, store_id: int) -> bool:
        return node_of(store_id) in self._SyncObj__connectedNodes

    def _majority_reachable(self) -> bool:
        """Whether a majority of the voters can be talked to now, ourselves included."""
        return is_majority({self.store_id, *(node.id for node in self._SyncObj__connectedNodes)}, self.members)

    def _state_changed(self, old: int, new: int) -> None:
        """The library's state is about to be ``new``."""

    def _contact(self, leader: int, term: int, commit: int) -> None:
        """The library's reaction to hearing from the leader, without touching the log."""
        self._SyncObj__onMessageReceived(
            node_of(leader), {"type": "append_entries", "term": term, "commit_index": commit}
        )

    def _emit(self, to: int, message: pb.RaftMessage, promise: bool = False) -> None:
        message.group = self.group_id
        message.term = self.term
        self._outbox.append(Outgoing(to, message, self.journal.position if promise else 0))

    # --- what the library calls -----------------------------------------------------------------------------------------

    def _SyncObj__generateRaftTimeout(self) -> float:
        return self._rng.uniform(self.timing.election_min_s, self.timing.election_max_s)

    def _said_by_library(self, to: int, message: dict[str, Any]) -> None:
        if message["type"] != "response_vote":
            raise AssertionError(f"the library says {message['type']}, which is ours to say")
        answer = pb.VoteAnswer(granted=True, voted_term=message["term"])
        self._emit(to, pb.RaftMessage(vote_answer=answer), promise=True)
