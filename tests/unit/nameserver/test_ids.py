"""Ids are given out once (R3.6), and the buried set remembers exactly and compactly (R2.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.nameserver.ids import GROUPS, TOPICS, IdCounter
from stele.services.coordination.records import CounterRecord, Versioned
from stele.services.coordination.znode import Stat
from stele.services.errors import InvalidArgument
from stele.services.intervals import IntervalSet


@given(st.lists(st.integers(0, 60)))
def test_r2_2_buried_set_is_exact_and_disjoint(numbers: list[int]) -> None:
    buried = IntervalSet()
    for number in numbers:
        buried = buried.add(number)
    assert {n for n in range(70) if n in buried} == set(numbers)
    for (_, last), (first, _) in zip(buried.intervals, buried.intervals[1:], strict=False):
        assert last + 1 < first
    assert IntervalSet.of(buried.pairs()) == buried


def test_r2_2_ten_thousand_in_a_row_are_one_interval() -> None:
    buried = IntervalSet.of((n, n) for n in range(1, 10_001))
    assert buried.pairs() == [[1, 10_000]]


def test_an_interval_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        IntervalSet.of([(3, 2)])


class Written(dict[str, tuple[int, int | None]]):
    """What a counter wrote: path → next id and the version it was written against."""

    def create(self, path: str, record: CounterRecord) -> None:
        self[path] = (record.next, None)

    def set(self, path: str, record: CounterRecord, version: int) -> None:
        self[path] = (record.next, version)


def test_r3_6_ids_are_taken_in_the_transaction_that_needs_them() -> None:
    written, stat = Written(), Stat(7, 1, 2, 0, 0, 0, 0)
    assert list(IdCounter(GROUPS, None).take(written, 3)) == [1, 2, 3]
    assert list(IdCounter(TOPICS, Versioned(CounterRecord(next=5), 7, stat)).take(written, 2)) == [5, 6]
    assert written == {GROUPS: (4, None), TOPICS: (7, 7)}
