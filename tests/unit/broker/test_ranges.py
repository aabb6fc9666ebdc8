from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.broker.ranges import RangeMap

ops = st.lists(
    st.tuples(st.sampled_from(["set", "take"]), st.integers(0, 30), st.integers(0, 8), st.integers(0, 2)), max_size=30
)


@given(ops, st.integers(0, 30), st.integers(0, 8))
def test_behaves_as_a_dict_of_offsets(steps: list[tuple[str, int, int, int]], at: int, width: int) -> None:
    ranges: RangeMap[int] = RangeMap()
    model: dict[int, int] = {}
    for op, first, size, value in steps:
        span = range(first, first + size + 1)
        if op == "set":
            ranges.set(first, first + size, value)
            model.update(dict.fromkeys(span, value))
        else:
            taken = ranges.take(first, first + size)
            assert _flat(taken) == {o: model.pop(o) for o in span if o in model}
        ranges.validate()
    assert _flat(ranges) == model
    assert ranges.count == len(model)
    span = range(at, at + width + 1)
    assert _flat(ranges.within(at, at + width)) == {o: model[o] for o in span if o in model}
    assert {o for a, b in ranges.gaps(at, at + width) for o in range(a, b + 1)} == {o for o in span if o not in model}
    assert ranges.next_free(at) == next(o for o in range(at, 100) if o not in model)
    assert ranges.next_taken(at) == next((o for o in range(at, 100) if o in model), None)
    assert ranges.get(at) == model.get(at)
    assert (at in ranges) == (at in model)
    head = ranges.head()
    assert (head[0] if head else None) == min(model, default=None)


def test_neighbours_with_equal_values_are_one_range() -> None:
    ranges = RangeMap([(0, 1, "a"), (4, 5, "a"), (2, 3, "a")])
    assert list(ranges) == [(0, 5, "a")]
    assert len(ranges) == 1
    ranges.set(3, 3, "b")
    assert list(ranges) == [(0, 2, "a"), (3, 3, "b"), (4, 5, "a")]
    assert ranges.take(0, 5) == [(0, 2, "a"), (3, 3, "b"), (4, 5, "a")]
    assert ranges.count == 0


def _flat(items: object) -> dict[int, int]:
    return {o: v for a, b, v in items for o in range(a, b + 1)}  # type: ignore[attr-defined]
