"""The verdict finds what it is there to find."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stele.lab.checker import Verdict, judge, longest_gap_s
from stele.lab.history import History, Place, Sent, decode, encode


def whole() -> History:
    """Two producers, three messages each, two partitions; everything as it should be."""
    history = History()
    offsets = {0: 0, 1: 0}
    for number in range(3):
        for producer in (0, 1):
            message, partition = Sent(producer, number), producer
            place = Place(partition, offsets[partition])
            offsets[partition] += 1
            history.sent.add(message)
            history.acknowledged(message, place, 1.0)
            history.received(message, place, 1.0)
            history.read_back(message, place)
    return history


def test_a_whole_history_holds() -> None:
    verdict = judge(whole())
    assert verdict.holds
    assert verdict.acknowledged == 6


def lose(h: History) -> None:
    h.stored[0].pop()


def duplicate(h: History) -> None:
    h.read_back(Sent(0, 2), Place(0, 3))


def swap(h: History) -> None:
    (a, x), (b, y), *rest = h.stored[0]
    h.stored[0] = [(a, y), (b, x), *rest]


def move(h: History) -> None:
    h.acked[Sent(0, 2)] = Place(0, 1)


def gap(h: History) -> None:
    h.stored[0][-1] = (7, Sent(0, 2))


def never_deliver(h: History) -> None:
    del h.delivered[Sent(1, 1)]


def store_refused(h: History) -> None:
    h.failed[Sent(0, 9)] = "refused"
    h.definite.add(Sent(0, 9))
    h.read_back(Sent(0, 9), Place(0, 3))


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lose, lambda v: v.lost == [Sent(0, 2)]),
        (duplicate, lambda v: v.duplicated == [Sent(0, 2)]),
        (swap, lambda v: v.unordered == [Sent(0, 0)]),
        (move, lambda v: v.misplaced == [Sent(0, 2)]),
        (gap, lambda v: v.gaps == [Place(0, 7)]),
        (never_deliver, lambda v: v.undelivered == [Sent(1, 1)]),
        (store_refused, lambda v: v.refused_but_stored == [Sent(0, 9)]),
    ],
)
def test_each_harm_is_found(harm: Callable[[History], None], found: Callable[[Verdict], bool]) -> None:
    history = whole()
    harm(history)
    verdict = judge(history)
    assert found(verdict)
    assert not verdict.holds


def test_an_indefinite_failure_may_be_stored_once_or_not_at_all() -> None:
    history = whole()
    history.failed[Sent(0, 3)] = "timed out"
    assert judge(history).holds
    history.read_back(Sent(0, 3), Place(0, 3))
    assert judge(history).holds
    history.read_back(Sent(0, 3), Place(0, 4))
    assert not judge(history).holds


def test_a_redelivery_is_counted_and_allowed() -> None:
    history = whole()
    history.received(Sent(0, 0), Place(0, 0), 2.0)
    verdict = judge(history)
    assert verdict.holds
    assert verdict.redelivered == 1


def test_the_longest_gap_is_the_worst_partitions() -> None:
    times = {0: [1.0, 2.0, 3.0, 4.0], 1: [1.0, 3.5, 4.0]}
    assert longest_gap_s(times, 1.0, 4.0) == 2.5
    assert longest_gap_s({0: [1.0, 2.0]}, 1.0, 9.0) == 7.0
    assert longest_gap_s({0: [1.0, 2.0, 6.0]}, 1.5, 3.0) == 1.0, "the rest of that gap is the next fault's"


def test_a_message_carries_its_identity() -> None:
    message = Sent(3, 1234567)
    assert decode(encode(message, 100)) == message
    assert len(encode(message, 100)) == 100
