"""What is told of a message's time is its batch's, or earlier by less than a step; what did not pass here is not known."""

from __future__ import annotations

import random

from stele.broker.message_times import RANGES_MAX, STEP_MAX_MS, MessageTimes


def test_a_time_is_that_of_the_batch_to_the_second() -> None:
    times = MessageTimes()
    times.note(0, 9, 5_400)
    times.note(10, 19, 5_900)
    times.note(20, 29, 6_100)
    assert [times.time_ms(o) for o in (0, 9, 10, 19, 20, 29)] == [5_000, 5_000, 5_000, 5_000, 6_000, 6_000]
    assert times.time_ms(30) is None


def test_between_what_passed_nothing_is_guessed() -> None:
    times = MessageTimes()
    times.note(0, 9, 1_000)
    times.note(50, 59, 1_000)
    assert [times.time_ms(o) for o in (9, 10, 49, 50)] == [1_000, None, None, 1_000]
    times.note(10, 19, 9_000)
    assert times.time_ms(15) == 9_000, "what was read later is known, too"


def test_a_long_log_takes_little_memory_and_an_error_that_is_small_beside_the_age() -> None:
    times, count = MessageTimes(), 20_000
    for i in range(count):
        times.note(i * 10, i * 10 + 9, i * 1_000)
    assert len(times) <= RANGES_MAX
    for i in range(0, count, 97):
        told = times.time_ms(i * 10)
        assert told is not None
        assert 0 <= i * 1_000 - told <= count * 1_000 / 100


def test_times_without_order_are_bounded_too() -> None:
    times, rng = MessageTimes(), random.Random(7)
    for i in range(10_000):
        times.note(i, i, rng.randrange(1 << 42))
        assert len(times) <= RANGES_MAX + 1
    told = times.time_ms(9_999)
    assert told is not None
    assert told % STEP_MAX_MS == 0
