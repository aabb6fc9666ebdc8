"""Why something came about: events of all nameservers put together into chains.  Pure.

Guarantee: a chain follows ``caused_by`` and nothing else.  An event that nobody remembers is said to be not known any more, and what came
before it is not guessed; a chain ends with the first write that names its last event, or says that none is known.

Times are for people: when each event was recorded, on the clock of whoever asks, right to the few milliseconds that an answer takes.
None is shown before that of the event it follows from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from stele.model import CauseChain, ChainStep, Event
from stele.services.events import EventKind

_SEEN_GONE = (EventKind.PROCESS_GONE, EventKind.PROCESS_SILENT)
_LESS = ("", "reported", "session_ended")  # what is said by those who did not see why
_WAITED: dict[tuple[str, str], str] = {
    (EventKind.CONNECTION_LOST, EventKind.PROCESS_GONE): "its port to refuse",
    (EventKind.PROCESS_SILENT, EventKind.PROCESS_GONE): "its port to refuse",
    (EventKind.CONNECTION_LOST, EventKind.PROCESS_SILENT): "an answer",
    (EventKind.CONNECTION_LOST, EventKind.LEADER_ELECTED): "the election timeout, and a majority's votes",
    (EventKind.PROCESS_SILENT, EventKind.LEADER_ELECTED): "the election timeout, and a majority's votes",
    (EventKind.PROCESS_GONE, EventKind.LEADER_ELECTED): "a majority's votes",
    (EventKind.LEADERSHIP_HANDED_OVER, EventKind.LEADER_ELECTED): "a majority's votes",
    (EventKind.PROCESS_GONE, EventKind.BUNDLE_MOVED): "the leading nameserver to record another owner",
    (EventKind.PROCESS_GONE, EventKind.MEMBER_GONE): "its session with ZooKeeper to end",
    (EventKind.PROCESS_SILENT, EventKind.MEMBER_GONE): "its session with ZooKeeper to end",
    (EventKind.STORE_DRAINING, EventKind.MEMBER_GONE): "its leaderships to be handed over",
    (EventKind.MEMBER_DRAINING, EventKind.MEMBER_GONE): "what it has to be handed over",
    (EventKind.MEMBER_GONE, EventKind.MOVE_BEGAN): "it to come back, for store_down_after_s",
    (EventKind.DECOMMISSION_BEGAN, EventKind.MOVE_BEGAN): "its turn, among moves_max at a time",
    (EventKind.REBALANCE_BEGAN, EventKind.MOVE_BEGAN): "its turn, among moves_max at a time",
    (EventKind.TOPIC_ALTERED, EventKind.MOVE_BEGAN): "its turn, among moves_max at a time",
    (EventKind.MEMBER_GONE, EventKind.BUNDLE_MOVED): "the leading nameserver to record another owner",
    (EventKind.LEADER_ELECTED, EventKind.PARTITION_WRITTEN): "the owner to find the leader, and a client's write",
    (EventKind.BUNDLE_MOVED, EventKind.PARTITION_WRITTEN): "the new owner to open the partition, and a client's write",
    (EventKind.MOVE_BEGAN, EventKind.REPLICA_MOVED): "the log to be copied, and the members to change one by one",
    (EventKind.BROKER_DRAINED, EventKind.BUNDLE_MOVED): "the leading nameserver to record another owner",
    (EventKind.MEMBER_DRAINING, EventKind.BUNDLE_MOVED): "the leading nameserver to record another owner",
    (EventKind.MEMBER_JOINED, EventKind.BUNDLE_MOVED): "the leading nameserver to give it to the new process",
}


class KnownEvents:
    """What nameservers told, each occurrence once."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self._found: set[str] = (
            set()
        )  # of those, the ones of which nobody knows when they came to be but by ZooKeeper's clock

    def add(self, event: Event, found: bool) -> None:
        """``event.time_ms`` is on the clock of whoever asks, unless it was found."""
        known, was_found = self.events.get(event.id), event.id in self._found
        if known is None or (was_found and not found):
            self.events[event.id] = event
            (self._found.add if found else self._found.discard)(event.id)
        elif was_found or not found:
            fuller = event if (event.caused_by and not known.caused_by) or known.cause in _LESS else known
            self.events[event.id] = replace(fuller, time_ms=min(known.time_ms, event.time_ms))

    def back_from(self, event: Event) -> list[str]:
        """The ids of what it follows from, the first one first, and its own.  The first may be of an event that is not known."""
        ids = [event.id]
        while (current := self.events.get(ids[0])) is not None and current.caused_by and current.caused_by not in ids:
            ids.insert(0, current.caused_by)
        return ids

    def began_ms(self, event: Event) -> int:
        """When the first known sign of it came."""
        return min(e.time_ms for i in self.back_from(event) if (e := self.events.get(i)) is not None)

    def newest(self, kinds: Collection[str], at_ms: int, **facts: str) -> Event | None:
        """The last event of those kinds and facts whose first sign had come by ``at_ms``; ``subject`` and ``group`` are facts, too."""
        return max(
            (
                e
                for e in self.events.values()
                if e.kind in kinds
                and all((e.subject if k == "subject" else e.facts.get(k)) == v for k, v in facts.items())
                and self.began_ms(e) <= at_ms
            ),
            key=lambda e: (e.time_ms, e.id),
            default=None,
        )


def of_partition(
    known: KnownEvents, topic: str, partition: int, group: int, bundle: str, at_ms: int
) -> list[CauseChain]:
    """Why its leader leads, its owner owns it, and its replicas moved, if they did."""
    subject, g = f"{topic}-{partition}", str(group)
    elected = known.newest({EventKind.LEADER_ELECTED}, at_ms, group=g)
    moved = known.newest({EventKind.BUNDLE_MOVED}, at_ms, subject=bundle)
    chains = [
        _chain(known, subject, "leader", [elected] if elected else [], g),
        _chain(known, subject, "owner", [moved] if moved else [], g),
    ]
    replicas = known.newest({EventKind.MOVE_BEGAN, EventKind.REPLICA_MOVED}, at_ms, group=g)
    if replicas is not None:
        chains.append(_chain(known, subject, "replicas", [replicas], None))
    return chains


def of_broker(known: KnownEvents, broker: str, at_ms: int) -> list[CauseChain]:
    """Why bundles last came to it, and last left it: all that moved for the same reason."""
    chains = []
    for about, direction in (("bundles that left it", "from"), ("bundles that came to it", "to")):
        last = known.newest({EventKind.BUNDLE_MOVED}, at_ms, **{direction: broker})
        if last is not None:
            chains.append(_chain(known, broker, about, _moved_with(known, last, direction, broker), ""))
    if not chains:
        last = known.newest({EventKind.MEMBER_GONE, *_SEEN_GONE, EventKind.MEMBER_JOINED}, at_ms, subject=broker)
        chains.append(_chain(known, broker, "process", [last] if last else [], None))
    return chains


def _moved_with(known: KnownEvents, last: Event, direction: str, broker: str) -> list[Event]:
    """Bundles that moved for the same event; where none is known, this one."""
    if not last.caused_by:
        return [last]
    same = [
        e
        for e in known.events.values()
        if (e.kind, e.caused_by, e.facts.get(direction)) == (last.kind, last.caused_by, broker)
    ]
    return sorted(same, key=lambda e: (e.time_ms, e.subject))


def _chain(known: KnownEvents, subject: str, about: str, effects: list[Event], group: str | None) -> CauseChain:
    """From the first sign over ``effects``, which follow from one event, to the first writes after them: to ``group``, or with "" to
    whichever partition; None: none is meant to follow."""
    if not effects:
        return CauseChain(subject, about, ())
    steps: list[ChainStep] = []
    at: dict[str, int] = {}  # of each event that is shown, never before the one that it follows from
    for id in known.back_from(effects[0])[:-1]:
        _step(known, id, steps, at)
    written = False
    for effect in effects:
        _step(known, effect.id, steps, at)
        if group is None:
            continue
        writes = _first_writes(known.events.values(), effect.id, group)
        written = written or bool(writes)
        for write in writes:
            _step(known, write.id, steps, at)
    return CauseChain(subject, about, tuple(steps), write_known=written or group is None)


def _first_writes(events: Iterable[Event], effect: str, group: str) -> list[Event]:
    writes = [
        e
        for e in events
        if e.kind == EventKind.PARTITION_WRITTEN and e.caused_by == effect and group in ("", e.facts.get("group"))
    ]
    return sorted(writes, key=lambda e: (e.time_ms, e.id))


def _step(known: KnownEvents, id: str, steps: list[ChainStep], at: dict[str, int]) -> None:
    event = known.events.get(id)
    if event is None:
        steps.append(ChainStep(id))
        return
    cause = known.events.get(event.caused_by)
    at[id] = max(event.time_ms, at.get(event.caused_by, event.time_ms))
    first_ms = next(iter(at.values()))
    waited_for = _WAITED.get((cause.kind, event.kind), "") if cause is not None else ""
    after_ms = at[id] - at[event.caused_by] if event.caused_by in at else None
    steps.append(ChainStep(id, event, at[id] - first_ms, after_ms, waited_for))


def lasted_ms(chain: CauseChain) -> int:
    """From the first known sign to the last event."""
    return max((s.at_ms for s in chain.steps if s.at_ms is not None), default=0)
