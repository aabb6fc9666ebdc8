"""What events are called, and the ring in which a process keeps its own.  Pure: time is passed in.

Guarantee: an id names one occurrence.  What a record or a log tells apart by itself (an owner epoch, a term, a registration) has one id
wherever it is told, ``kind/subject@mark``, so that a process can name an event that another one made; what only one process saw has that
process, its life and a number for a mark.  ``caused_by`` is the id of an event that came before, never a guess by time.

Not promised: that the event behind an id is still kept anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

RING_MAX = 1_000


class EventKind(StrEnum):
    """All that there are."""

    CONNECTION_LOST = "connection_lost"
    PROCESS_GONE = "process_gone"
    PROCESS_SILENT = "process_silent"
    MEMBER_GONE = "member_gone"
    LEADERSHIP_HANDED_OVER = "leadership_handed_over"
    LEADER_ELECTED = "partition_leader_elected"
    BUNDLE_MOVED = "bundle_moved"
    PARTITION_WRITTEN = "partition_written"
    MOVE_BEGAN = "replica_move_began"
    REPLICA_MOVED = "replica_moved"
    MEMBER_JOINED = "member_joined"
    MEMBER_DRAINING = "member_draining"
    STORE_LOADING = "store_loading"
    STORE_READY = "store_ready"
    STORE_DRAINING = "store_draining"
    DECOMMISSION_BEGAN = "decommission_began"
    DECOMMISSION_CANCELLED = "decommission_cancelled"
    STORE_REMOVED = "store_removed"
    REBALANCE_BEGAN = "rebalance_began"
    REBALANCE_ENDED = "rebalance_ended"
    NAMESERVER_ELECTED = "nameserver_elected"
    TOPIC_CREATED = "topic_created"
    TOPIC_ALTERED = "topic_altered"
    TOPIC_DELETED = "topic_deleted"
    BROKER_DRAINED = "broker_drained"
    BROKER_UNDRAINED = "broker_undrained"
    EVENTS_MISSED = "events_missed"


_MOVES = frozenset({"operator", "decommission", "repair", "balance", "replication"})
_OPERATOR = frozenset({"operator"})

CAUSES: Mapping[EventKind, frozenset[str]] = {
    EventKind.CONNECTION_LOST: frozenset({"closed"}),
    EventKind.PROCESS_GONE: frozenset({"refused"}),
    EventKind.PROCESS_SILENT: frozenset({"silent"}),
    EventKind.MEMBER_GONE: frozenset({"refused", "silent", "session_ended", "stopping", "registered_again"}),
    EventKind.LEADERSHIP_HANDED_OVER: frozenset(
        {"operator", "balance", "move", "stopping", "disk_full", "disk_stalled", "damaged", "asked"}
    ),
    EventKind.LEADER_ELECTED: frozenset({"refused", "timeout", "transfer", "first", "reported"}),
    EventKind.BUNDLE_MOVED: frozenset(
        {
            *("unassigned", "gone", "reregistered", "draining", "drained", "even", "overtaken"),
            *("operator", "unloaded", "split", "unrecorded"),
        }
    ),
    EventKind.PARTITION_WRITTEN: frozenset({"new_leader", "new_owner"}),
    EventKind.MOVE_BEGAN: _MOVES,
    EventKind.REPLICA_MOVED: _MOVES,
    EventKind.MEMBER_JOINED: frozenset({"started", "registered_again"}),
    EventKind.MEMBER_DRAINING: frozenset({"stopping"}),
    EventKind.STORE_LOADING: frozenset({"started"}),
    EventKind.STORE_READY: frozenset({"loaded"}),
    EventKind.STORE_DRAINING: frozenset({"stopping"}),
    EventKind.DECOMMISSION_BEGAN: _OPERATOR,
    EventKind.DECOMMISSION_CANCELLED: _OPERATOR,
    EventKind.STORE_REMOVED: frozenset({"emptied"}),
    EventKind.REBALANCE_BEGAN: _OPERATOR,
    EventKind.REBALANCE_ENDED: frozenset({"ended"}),
    EventKind.NAMESERVER_ELECTED: frozenset({"leader_gone", "vacant"}),
    EventKind.TOPIC_CREATED: _OPERATOR,
    EventKind.TOPIC_ALTERED: _OPERATOR,
    EventKind.TOPIC_DELETED: _OPERATOR,
    EventKind.BROKER_DRAINED: _OPERATOR,
    EventKind.BROKER_UNDRAINED: _OPERATOR,
    EventKind.EVENTS_MISSED: frozenset({"buffer_full"}),
}
"""What each may say of why it came about; docs/how-to/find-out-why.md has what they mean."""


def event_id(kind: str, subject: object, mark: object) -> str:
    return f"{kind}/{subject}@{mark}"


def bundle_moved_id(bundle: str, epoch: int) -> str:
    """Of the event that gave ``bundle``, as namespace/range, an owner under ``epoch``."""
    return event_id(EventKind.BUNDLE_MOVED, bundle, epoch)


def leader_elected_id(group: int, term: int) -> str:
    return event_id(EventKind.LEADER_ELECTED, group, term)


def handed_over_id(group: int, term: int) -> str:
    """Of the event with which the leader of ``term`` asked another replica to lead."""
    return event_id(EventKind.LEADERSHIP_HANDED_OVER, group, term)


@dataclass(frozen=True, slots=True)
class OwnEvent:
    """What a process saw or did."""

    number: int  # grows within one life
    id: str
    kind: str
    at_s: float  # on the process's monotonic clock
    cause: str = ""
    caused_by: str = ""
    about: object = None
    facts: Mapping[str, str] = field(default_factory=dict)


class EventRing:
    """The newest ``events_max`` events of the process called ``process`` in its life ``life``."""

    def __init__(self, process: str, life: str, events_max: int = RING_MAX) -> None:
        self.process, self.life = process, life
        self._events: deque[OwnEvent] = deque(maxlen=events_max)
        self._next = 1

    def record(
        self,
        kind: str,
        subject: str,
        at_s: float,
        *,
        cause: str = "",
        caused_by: str = "",
        id: str = "",
        about: object = None,
        facts: Mapping[str, str] | None = None,
    ) -> str:
        """Its id; made of this process, its life and a number where none is given.  ``about``: the recorder's own, kept with it."""
        known = id or event_id(kind, subject, f"{self.process}.{self.life}.{self._next}")
        self._events.append(OwnEvent(self._next, known, kind, at_s, cause, caused_by, about, dict(facts or {})))
        self._next += 1
        return known

    @property
    def newest(self) -> int:
        """The number of the newest event that there ever was; 0: there was none."""
        return self._next - 1

    def after(self, number: int) -> list[OwnEvent]:
        """Those that came after it and are kept, oldest first."""
        oldest = self._next - len(self._events)
        return list(islice(self._events, max(0, number + 1 - oldest), None))
