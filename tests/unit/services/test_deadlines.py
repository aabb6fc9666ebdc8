"""For how long a handler may work for its caller."""

from __future__ import annotations

import pytest

from stele.services.rpc.servers import ANSWER_MARGIN_S, WAIT_MAX_S, WAIT_MIN_S, left_s


class Context:
    def __init__(self, told_s: float | None) -> None:
        self._told_s = told_s

    def time_remaining(self) -> float | None:
        return self._told_s


@pytest.mark.parametrize(
    ("told_s", "wanted_s"),
    [
        pytest.param(None, 30.0, id="the caller gave no deadline"),
        pytest.param(5.0, 5.0 - ANSWER_MARGIN_S, id="the answer needs a moment on its way"),
        pytest.param(0.1, WAIT_MIN_S, id="a short deadline"),
        pytest.param(-31_622_400.0, 30.0, id="the wall clock was set a year ahead"),
        pytest.param(31_622_400.0, WAIT_MAX_S - ANSWER_MARGIN_S, id="the wall clock was set back"),
    ],
)
def test_p36_a_clock_that_is_set_does_not_end_a_call_nor_let_it_wait_for_ever(
    told_s: float | None, wanted_s: float
) -> None:
    assert left_s(Context(told_s), 30.0) == pytest.approx(wanted_s)
