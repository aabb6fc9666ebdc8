"""The verdict over a history.  Pure.

An acknowledged message is *lost* if the final read of its partition does not hold it at the offset that the acknowledgement named, or if
the subscription never delivered it.  A message is *duplicated* if the final read holds it more than once, and *unordered* if a message of
the same producer with a higher number stands before it in its partition.  Offsets must have no gaps.  A message whose sending failed
indefinitely may be stored once or not at all; one that failed definitely must not be stored.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stele.lab.history import History, Place, Sent

EXAMPLES_MAX = 5


@dataclass(slots=True)
class Verdict:
    acknowledged: int = 0
    indefinite: int = 0
    lost: list[Sent] = field(default_factory=list)
    undelivered: list[Sent] = field(default_factory=list)
    duplicated: list[Sent] = field(default_factory=list)
    unordered: list[Sent] = field(default_factory=list)
    misplaced: list[Sent] = field(default_factory=list)
    refused_but_stored: list[Sent] = field(default_factory=list)
    gaps: list[Place] = field(default_factory=list)
    redelivered: int = 0

    @property
    def holds(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """One line per kind of problem, with examples."""
        kinds: Mapping[str, Sequence[object]] = {
            "acknowledged and not stored": self.lost,
            "acknowledged and never delivered": self.undelivered,
            "stored more than once": self.duplicated,
            "out of order": self.unordered,
            "not at the offset that was acknowledged": self.misplaced,
            "refused for certain, and stored": self.refused_but_stored,
            "gaps in the offsets": self.gaps,
        }
        return [f"{what}: {len(found)}, e.g. {found[:EXAMPLES_MAX]}" for what, found in kinds.items() if found]


def judge(history: History) -> Verdict:
    """What the record says.  Every partition must have been read back from its beginning to its end."""
    verdict = Verdict(acknowledged=len(history.acked))
    verdict.indefinite = len(history.failed) - len(history.definite)
    where: dict[Sent, list[Place]] = defaultdict(list)
    for partition, entries in history.stored.items():
        newest: dict[int, int] = {}
        for expected, (offset, message) in enumerate(sorted(entries, key=lambda e: e[0])):
            if offset != expected:
                verdict.gaps.append(Place(partition, offset))
                break
            where[message].append(Place(partition, offset))
            if message.number <= newest.get(message.producer, -1):
                verdict.unordered.append(message)
            newest[message.producer] = max(message.number, newest.get(message.producer, -1))
    for message, place in history.acked.items():
        places = where.get(message, [])
        if not places:
            verdict.lost.append(message)
        elif place not in places:
            verdict.misplaced.append(message)
        if message not in history.delivered:
            verdict.undelivered.append(message)
    verdict.duplicated = [m for m, places in where.items() if len(places) > 1]
    verdict.refused_but_stored = [m for m in history.definite if m in where]
    deliveries = Counter({m: len(places) for m, places in history.delivered.items()})
    verdict.redelivered = sum(n - 1 for n in deliveries.values())
    return verdict


def longest_gap_s(times: Mapping[int, Sequence[float]], start_s: float, end_s: float) -> float:
    """The longest time between two successes in one partition, over partitions, within ``start_s..end_s``: how long the worst
    partition stood still.  What lies outside belongs to another fault."""
    longest = 0.0
    for moments in times.values():
        before = start_s
        for at in (*(m for m in moments if start_s < m < end_s), end_s):
            longest = max(longest, at - before)
            before = at
    return longest
