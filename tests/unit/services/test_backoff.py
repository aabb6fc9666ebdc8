"""The one backoff: it grows, has a cap, and no two wait alike."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from stele.services.backoff import Backoff


def test_without_a_failure_there_is_no_wait() -> None:
    assert Backoff(0.1, 2.0).after(0, random.Random(1)) == 0.0


def test_the_ceiling_grows_by_the_factor_up_to_the_cap() -> None:
    assert [Backoff(0.1, 1.0).ceiling_s(n) for n in range(1, 6)] == [0.1, 0.2, 0.4, 0.8, 1.0]
    assert [Backoff(1.0, 2.5, factor=1.5).ceiling_s(n) for n in range(1, 5)] == [1.0, 1.5, 2.25, 2.5]


@given(
    first_s=st.floats(0.001, 1.0),
    times=st.floats(1.0, 1000.0),
    failures=st.integers(1, 10**6),
    seed=st.integers(0, 999),
)
def test_each_wait_is_between_half_and_the_whole_of_its_ceiling(
    first_s: float, times: float, failures: int, seed: int
) -> None:
    backoff = Backoff(first_s, first_s * times)
    wait_s = backoff.after(failures, random.Random(seed))
    assert backoff.ceiling_s(failures) / 2 <= wait_s <= backoff.ceiling_s(failures) <= backoff.max_s


def test_waits_are_jittered() -> None:
    rng = random.Random(5)
    waits = [Backoff(0.1, 0.5).after(9, rng) for _ in range(50)]
    assert len({round(w, 9) for w in waits}) == len(waits)
