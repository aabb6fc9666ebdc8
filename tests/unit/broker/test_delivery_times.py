"""A delivery counts once, when its consumer has acknowledged the last message of it."""

from __future__ import annotations

from stele.broker.delivery_times import DELIVERIES_MAX, DeliveryTimes


def test_a_delivery_counts_when_its_last_message_is_acknowledged() -> None:
    times = DeliveryTimes()
    times.sent(9, 1.0)
    times.sent(19, 2.0)
    assert times.acknowledged([(0, 8)], False, 5.0) == []
    assert times.acknowledged([(9, 9)], False, 5.0) == [4.0]
    assert times.acknowledged([(0, 1 << 40)], False, 6.0) == [4.0]
    assert times.acknowledged([(9, 19)], False, 7.0) == [], "once"


def test_a_cumulative_one_counts_all_up_to_it() -> None:
    times = DeliveryTimes()
    for last in (29, 9, 19):
        times.sent(last, 1.0)
    assert times.acknowledged([(19, 19)], True, 3.0) == [2.0, 2.0]
    assert len(times) == 1


def test_what_is_handed_back_does_not_count_before_it_is_sent_again() -> None:
    times = DeliveryTimes()
    times.sent(9, 1.0)
    times.returned([(5, 9)])
    assert times.acknowledged([(0, 9)], False, 5.0) == []
    times.sent(9, 6.0)
    assert times.acknowledged([(0, 9)], False, 7.0) == [1.0]


def test_those_that_are_out_are_bounded_and_the_newest_stay() -> None:
    times = DeliveryTimes()
    for last in range(DELIVERIES_MAX + 10):
        times.sent(last, float(last))
    assert len(times) == DELIVERIES_MAX
    assert times.acknowledged([(0, 9)], False, 0.0) == []
    assert times.acknowledged([(10, 10)], False, 11.0) == [1.0]
