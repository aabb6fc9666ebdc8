"""What a client is told never goes back (fault P4), and nobody waits for ever for what nobody has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.services.rpc.never_back import REFUSED_MAX_S, NeverBack
from tests.support.both_ways import holds_and_mutant_fails, promise


async def test_p4_an_older_answer_is_refused_while_another_may_have_a_newer_one() -> None:
    async def scenario(kind: type[NeverBack]) -> None:
        never_back = kind()
        for revision in ((1, 5), (1, 9), (1, 9), (2, 3)):  # a new leader's epoch counts before the transactions
            assert never_back.takes(revision, 0.0)
        with promise("what a client is told never goes back"):
            for revision in ((1, 100), (2, 2), (0, 0)):
                assert not never_back.takes(revision, 1.0)
            assert never_back.taken == (2, 3)
            assert never_back.takes((2, 3), 2.0)

    await holds_and_mutant_fails(scenario, NeverBack, "ownership.TakesWhatIsOlder")


def test_where_nobody_has_anything_as_new_the_newest_there_is_is_taken_in_time() -> None:
    never_back = NeverBack()
    assert never_back.takes((5, 50), 0.0)
    assert not never_back.takes((4, 40), 10.0)
    assert not never_back.takes((4, 30), 10.0 + REFUSED_MAX_S), "the other has a newer one"
    assert never_back.takes((4, 40), 10.1 + REFUSED_MAX_S)
    assert never_back.went_back_from == (5, 50)
    assert never_back.takes((4, 41), 10.2 + REFUSED_MAX_S)
    assert never_back.went_back_from is None
    assert not never_back.takes((4, 40), 60.0), "from here on it goes forward again"


def test_what_was_as_new_in_between_begins_the_refusal_anew() -> None:
    never_back = NeverBack()
    assert never_back.takes((1, 50), 0.0)
    for now_s in range(1, 100):
        assert not never_back.takes((1, 49), float(now_s))
        assert never_back.takes((1, 50), float(now_s))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1), st.floats(0.01, 2.0))
def test_no_sequence_of_answers_is_refused_for_longer_than_twice_the_bound(
    revisions: list[tuple[int, int]], step_s: float
) -> None:
    never_back, refused_since_s = NeverBack(), None
    for turn, revision in enumerate(revisions):
        before, now_s = never_back.taken, turn * step_s
        if never_back.takes(revision, now_s):
            assert revision >= before or never_back.went_back_from == before
            refused_since_s = None
        else:
            assert revision < before
            refused_since_s = now_s if refused_since_s is None else refused_since_s
            assert now_s - refused_since_s < 2 * REFUSED_MAX_S
