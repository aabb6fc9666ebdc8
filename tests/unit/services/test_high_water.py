"""How far metadata has come (fault P3)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.services.high_water import NOTHING_TOLD, HighWater

numbers = st.integers(0, 2**64 - 1)
marks = st.builds(HighWater, numbers, numbers, numbers, numbers)


@given(marks, marks)
def test_p3_what_is_joined_never_goes_back(a: HighWater, b: HighWater) -> None:
    both = a.joined(b)
    assert both == b.joined(a)
    assert not a.beyond(both)
    assert not b.beyond(both)
    assert both.joined(a) == both
    assert bool(both.beyond(a)) == bool(b.beyond(a))


@given(marks)
def test_p3_it_travels_whole(mark: HighWater) -> None:
    assert HighWater.of(mark.message()) == mark
    assert not NOTHING_TOLD.beyond(mark)


def test_p3_what_is_beyond_is_named() -> None:
    assert HighWater(3, 2, 9, 1).beyond(HighWater(3, 1, 9, 4)) == ("topics",)
