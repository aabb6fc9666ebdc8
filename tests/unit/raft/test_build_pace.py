"""What is sent to replicas that are being built stays within its bound, and holds up nobody else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.services.raft.build_pace import BURST_S, BuildPace


@given(
    st.integers(1, 1 << 30),
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 1 << 20)), max_size=60),
)
def test_no_more_is_sent_than_the_bound_allows(bytes_per_s: int, asked: list[tuple[float, int]]) -> None:
    pace, now_s, sent, began_s = BuildPace(bytes_per_s), 100.0, 0, 100.0
    last = 0
    for passed_s, size in asked:
        now_s += passed_s
        if pace.may_send(now_s):
            pace.took(size, now_s)
            sent, last = sent + size, size
        assert sent - last <= bytes_per_s * (now_s - began_s + BURST_S) * (1 + 1e-9)


def test_who_waits_as_long_as_it_is_told_may_send() -> None:
    pace = BuildPace(1000)
    pace.took(2000, 50.0)
    assert not pace.may_send(50.0)
    wait_s = pace.wait_s(50.0)
    assert wait_s == 2.0 - BURST_S
    assert pace.may_send(50.0 + wait_s)


def test_without_a_bound_everything_goes_at_once() -> None:
    pace = BuildPace(0)
    pace.took(1 << 40, 1.0)
    assert pace.may_send(1.0)
