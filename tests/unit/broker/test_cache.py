from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.broker.cache import BatchCache, StoredBatch


def batch(base: int, count: int = 5, size: int = 10) -> StoredBatch:
    return StoredBatch(base, base + count - 1, b"x" * size)


def test_finds_the_batch_that_contains_an_offset() -> None:
    cache = BatchCache()
    cache.put(1, batch(10))
    cache.put(1, batch(20))
    cache.put(2, batch(10))
    assert [cache.get(1, o) is not None for o in (9, 10, 14, 15, 19, 20, 24, 25)] == [
        False,
        True,
        True,
        False,
        False,
        True,
        True,
        False,
    ]
    cache.forget(1)
    assert cache.get(1, 10) is None
    assert cache.get(2, 10) is not None
    cache.validate()


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = BatchCache(bytes_max=30)
    for base in (0, 5, 10):
        cache.put(1, batch(base))
    cache.get(1, 0)
    cache.put(1, batch(15))
    assert cache.get(1, 5) is None
    assert cache.get(1, 0) is not None
    cache.put(1, batch(20, size=31))  # larger than everything: not kept
    assert cache.get(1, 20) is None
    cache.validate()


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20), st.integers(1, 40), st.booleans())))
def test_bounded_whatever_happens(steps: list[tuple[int, int, int, bool]]) -> None:
    cache = BatchCache(bytes_max=100)
    for group, n, size, forget in steps:
        if forget:
            cache.forget(group)
        else:
            cache.put(group, batch(n * 5, size=size))
            found = cache.get(group, n * 5 + 4)
            assert found is not None
            assert found.base_offset == n * 5
        cache.validate()
