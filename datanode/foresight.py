"""Batches whose outcome a leader knows before they are in its log: duplicates of what is stored, and gaps.

Guarantee: an outcome that is given is the one that applying the batch would have had.  Told without an entry it costs the log nothing, and
the index nothing, which has to remember every entry of which only parts were stored (datanode/offsets.py).

Not promised: that nothing else is stored in part.  A repetition of what is still on its way is left to the log.

To be asked by a replica that leads with a current state; ``proposed`` and ``settled`` frame each entry of its own.  Before a gap is told
to anybody it has to be shown that the replica leads still (datanode/replica.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stele.datanode.commands import Appended, Refused
from stele.datanode.partition import PartitionState
from stele.datanode.producers import out_of_order
from stele.services.batch import BatchHeader


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Of one append.  What is not ``known`` (by position) is to be proposed, in order."""

    known: dict[int, Appended | Refused] = field(default_factory=dict)
    next: dict[int, int] = field(default_factory=dict)  # producer → its next sequence once that is applied


class Foresight:
    """What comes of the appends that are on their way."""

    def __init__(self, partition: PartitionState) -> None:
        self._partition = partition
        self._under_way: dict[int, int] = {}  # producer → entries with batches of it that are not applied yet
        self._next: dict[int, int] = {}  # producer → its next sequence once they are; missing: not known

    def ask(self, headers: Sequence[BatchHeader]) -> Foreseen:
        foreseen = Foreseen()
        for i, header in enumerate(headers):
            producer = header.producer_id
            if producer == 0:
                continue
            expected = foreseen.next.get(producer, self._next.get(producer))
            if expected is None:
                if producer in self._under_way:
                    continue
                outcome = self._partition.producers.check(header)
                if outcome is not None:
                    foreseen.known[i] = outcome
                    continue
            elif header.base_sequence > expected and not header.follows(expected):
                foreseen.known[i] = out_of_order(header, expected, is_known=True)
                continue
            elif header.base_sequence < expected:
                continue
            foreseen.next[producer] = header.last_sequence + 1
        return foreseen

    def proposed(self, headers: Sequence[BatchHeader], foreseen: Foreseen | None) -> None:
        """These are on their way; ``foreseen`` None: nobody asked what comes of them."""
        for producer in _producers(headers):
            self._under_way[producer] = self._under_way.get(producer, 0) + 1
            if foreseen is None:
                # Among them may be what is stored already: where the producer goes on from is not to be told from it.
                self._next.pop(producer, None)
        if foreseen is not None:
            self._next |= foreseen.next

    def settled(self, headers: Sequence[BatchHeader]) -> None:
        """Applied, or given up."""
        for producer in _producers(headers):
            self._under_way[producer] -= 1
            if not self._under_way[producer]:
                del self._under_way[producer]
                self._next.pop(producer, None)


def _producers(headers: Sequence[BatchHeader]) -> set[int]:
    return {header.producer_id for header in headers if header.producer_id}
