"""The appending core, event by event."""

from __future__ import annotations

import pytest

from stele.broker import pipeline as core
from stele.broker.pipeline import Deposed, Pipeline, Recover, Respond, Send, StoredAt
from stele.services.errors import (
    BatchCorrupt,
    ConnectionBroken,
    DiskFull,
    Fenced,
    MessageTooLarge,
    NotLeader,
    NotOwner,
    NotReady,
    OutOfOrderSequence,
    ProposalLost,
    SteleError,
    Timeout,
)


@pytest.fixture
def pipe():  # type: ignore[no-untyped-def]
    made = Pipeline(inflight_max=2, deadline_s=30)
    yield made
    made.validate()


def offer(pipe: Pipeline, *names: str, producer_id: int = 7, now_s: float = 0) -> list[core.PipelineEffect]:
    return [e for name in names for e in pipe.offer(name.encode(), producer_id, name, now_s)]


def result_of(effects: list[core.PipelineEffect], token: str) -> core.Result:
    (found,) = [e.result for e in effects if isinstance(e, Respond) and e.token == token]
    return found


def test_joins_what_waits_while_others_are_in_flight(pipe: Pipeline) -> None:
    assert offer(pipe, "a", "b", "c", "d") == [Send(1, (b"a",)), Send(2, (b"b",))]
    assert pipe.answered(1, [StoredAt(0)], 0) == [Respond("a", StoredAt(0)), Send(3, (b"c", b"d"))]
    assert pipe.answered(2, [StoredAt(1)], 0) == [Respond("b", StoredAt(1))]
    assert pipe.answered(3, [StoredAt(2), StoredAt(3, True)], 0) == [
        Respond("c", StoredAt(2)),
        Respond("d", StoredAt(3, True)),
    ]
    assert pipe.is_idle


def test_joined_appends_are_bounded(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.append_bytes_max = 5
    offer(pipe, "a", "b", "ccc", "dd", "e", "ffffffff", "g")
    assert pipe.answered(1, [StoredAt(0)], 0)[1:] == [Send(3, (b"ccc", b"dd"))]
    monkeypatch.setattr(core, "APPEND_BATCHES_MAX", 1)
    assert pipe.answered(2, [StoredAt(1)], 0)[1:] == [Send(4, (b"e",))]
    assert pipe.answered(3, [StoredAt(2), StoredAt(3)], 0)[2:] == [
        Send(5, (b"ffffffff",))
    ]  # larger than the bound: alone


def test_answers_keep_the_order_of_the_offers(pipe: Pipeline) -> None:
    offer(pipe, "a", producer_id=1)
    offer(pipe, "b", producer_id=2)
    assert pipe.answered(2, [StoredAt(0)], 0) == []
    assert pipe.answered(1, [StoredAt(1)], 0) == [Respond("a", StoredAt(1)), Respond("b", StoredAt(0))]


@pytest.mark.parametrize(
    "error", [NotLeader("x"), ConnectionBroken("x"), ProposalLost("x"), NotReady("x"), Timeout("x")]
)
def test_resends_in_order_at_the_new_leader(pipe: Pipeline, error: SteleError) -> None:
    offer(pipe, "a", "b", "c")
    assert pipe.failed(1, error, 0) == []  # b is still out: nothing is sent past it
    assert pipe.failed(2, error, 0) == [Recover(error)]
    assert offer(pipe, "d") == []
    assert pipe.recovered(0) == [Send(3, (b"a", b"b", b"c", b"d"))]


def test_a_gap_behind_an_earlier_batch_is_waited_for(pipe: Pipeline) -> None:
    offer(pipe, "a", "b")
    gap = OutOfOrderSequence("gap", expected=0, got=1)
    pipe.failed(1, NotLeader("x"), 0)
    (recover,) = pipe.answered(2, [gap], 0)
    assert isinstance(recover, Recover)
    assert pipe.recovered(0) == [Send(3, (b"a", b"b"))]
    assert pipe.answered(3, [StoredAt(0), StoredAt(1)], 0) == [Respond("a", StoredAt(0)), Respond("b", StoredAt(1))]


def test_a_gap_that_nothing_fills_is_returned(pipe: Pipeline) -> None:
    gap = OutOfOrderSequence("gap", expected=0, got=1)
    offer(pipe, "a", producer_id=1)
    offer(pipe, "b", producer_id=2)
    assert pipe.answered(2, [gap], 0) == []  # another producer's batch fills nothing
    assert pipe.answered(1, [StoredAt(0)], 0) == [Respond("a", StoredAt(0)), Respond("b", gap)]


def test_a_gap_in_the_same_append_after_a_refused_batch_is_returned(pipe: Pipeline) -> None:
    offer(pipe, "x", "y", "a", "b")
    pipe.answered(1, [StoredAt(0)], 0)
    pipe.answered(2, [StoredAt(1)], 0)
    refused, gap = BatchCorrupt("bad"), OutOfOrderSequence("gap", expected=0, got=1)
    assert pipe.answered(3, [refused, gap], 0) == [Respond("a", refused), Respond("b", gap)]


def test_later_success_is_answered_after_the_earlier_retry(pipe: Pipeline) -> None:
    offer(pipe, "a", producer_id=1)
    offer(pipe, "b", producer_id=2)
    pipe.failed(1, NotLeader("x"), 0)
    (recover,) = pipe.answered(2, [StoredAt(0)], 0)
    assert isinstance(recover, Recover)
    assert pipe.recovered(0) == [Send(3, (b"a",))]
    assert pipe.answered(3, [StoredAt(1)], 0) == [Respond("a", StoredAt(1)), Respond("b", StoredAt(0))]


def test_without_producer_id_an_unknown_outcome_is_final(pipe: Pipeline) -> None:
    assert offer(pipe, "a", "b", producer_id=0) == [Send(1, (b"a",))]  # one at a time keeps the order
    broken = ConnectionBroken("x")
    effects = pipe.failed(1, broken, 0)
    assert effects == [Respond("a", broken), Recover(broken)]
    assert pipe.recovered(0) == [Send(2, (b"b",))]
    assert pipe.failed(2, NotLeader("x"), 0)[0].error.reason == "NOT_LEADER"  # type: ignore[union-attr]
    assert pipe.recovered(0) == [Send(3, (b"b",))]  # a definite failure may be retried


def test_producers_window_bounds_what_is_in_flight(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "PRODUCER_INFLIGHT_MAX", 3)
    pipe = Pipeline(inflight_max=10)
    sent = offer(pipe, *"abcde")
    assert [e.batches for e in sent if isinstance(e, Send)] == [(b"a",), (b"b",), (b"c",)]
    assert pipe.answered(1, [StoredAt(0)], 0)[1:] == [Send(4, (b"d",))]
    pipe.validate()


def test_deadline_with_nothing_sent_is_definite(pipe: Pipeline) -> None:
    offer(pipe, "a", "b")
    pipe.failed(1, NotLeader("x"), 0)
    pipe.failed(2, NotLeader("no leader"), 0)
    assert pipe.timer(29.9) == []
    effects = pipe.timer(30.0)
    error = result_of(effects, "a")
    assert isinstance(error, NotReady)
    assert error.definite
    assert "no leader" in str(error)
    assert pipe.recovered(31) == []


def test_deadline_after_sending_is_indefinite(pipe: Pipeline) -> None:
    offer(pipe, "a")
    offer(pipe, "b", now_s=10)
    error = result_of(pipe.timer(30), "a")
    assert isinstance(error, Timeout)
    assert not error.definite
    assert pipe.answered(1, [StoredAt(0)], 31) == []  # too late
    gap = OutOfOrderSequence("gap", expected=0, got=1)
    assert pipe.answered(2, [gap], 31) == [Respond("b", gap)]


def test_abandoned_appends_are_sent_again_and_their_late_answers_ignored(pipe: Pipeline) -> None:
    offer(pipe, "a", "b")
    assert pipe.oldest_sent_s() == 0
    silent = Timeout("frozen")
    assert pipe.abandon(silent, 5) == [Recover(silent)]
    assert pipe.oldest_sent_s() is None
    assert pipe.answered(1, [StoredAt(0)], 5) == []
    assert pipe.recovered(5) == [Send(3, (b"a", b"b"))]
    pipe.answered(3, [StoredAt(0, True), StoredAt(1)], 6)
    assert pipe.is_idle


def test_a_definite_refusal_after_an_unknown_outcome_is_indefinite(pipe: Pipeline) -> None:
    offer(pipe, "a")
    pipe.failed(1, ConnectionBroken("x"), 0)
    pipe.recovered(0)
    error = result_of(pipe.failed(2, DiskFull("full"), 0), "a")
    assert isinstance(error, SteleError)
    assert not error.definite
    assert error.retryable
    assert error.facts["cause"] == "DISK_FULL"


def test_terminal_errors_are_answers(pipe: Pipeline) -> None:
    offer(pipe, "a", "b")
    full = DiskFull("full")
    assert pipe.failed(1, full, 0) == [Respond("a", full)]
    assert pipe.answered(2, [full], 0) == [Respond("b", full)]


def test_r5_10_fenced_closes_the_pipeline(pipe: Pipeline) -> None:
    offer(pipe, "a", "b", "c")
    fenced = Fenced("old epoch", epoch=3, seen=4)
    effects = pipe.failed(1, fenced, 0)
    assert Deposed(fenced) in effects
    assert isinstance(result_of(effects, "a"), NotOwner)
    assert pipe.is_idle is False  # b is out; c is refused behind it
    effects = pipe.answered(2, [fenced], 0)
    assert [type(e.result) for e in effects if isinstance(e, Respond)] == [NotOwner, NotOwner]
    assert isinstance(result_of(offer(pipe, "d"), "d"), NotOwner)
    assert pipe.is_idle


def test_close_lets_what_is_in_flight_finish(pipe: Pipeline) -> None:
    offer(pipe, "a", "b", "c")
    gone = NotOwner("gone")
    assert pipe.close(gone, 0) == []
    assert pipe.answered(1, [StoredAt(0)], 0) == [Respond("a", StoredAt(0))]
    effects = pipe.failed(2, ConnectionBroken("x"), 0)
    uncertain = result_of(effects, "b")
    assert isinstance(uncertain, SteleError)
    assert not uncertain.definite
    assert result_of(effects, "c") is gone
    assert pipe.is_idle
    assert pipe.close(gone, 0) == []


def test_joined_appends_too_large_for_the_store_are_split(pipe: Pipeline) -> None:
    offer(pipe, "x", "y", "aaaa", "bbbb", "cccc")
    pipe.answered(1, [StoredAt(0)], 0)
    pipe.answered(2, [StoredAt(1)], 0)
    (recover,) = pipe.failed(3, MessageTooLarge("too large"), 0)
    assert isinstance(recover, Recover)
    assert pipe.append_bytes_max == 6
    assert pipe.recovered(0) == [Send(4, (b"aaaa",)), Send(5, (b"bbbb",))]
    alone = MessageTooLarge("too large", bytes_max=3)
    assert pipe.failed(4, alone, 0) == [Respond("aaaa", alone), Send(6, (b"cccc",))]


def test_an_answer_of_the_wrong_length_is_an_unknown_outcome(pipe: Pipeline) -> None:
    offer(pipe, "a")
    error = result_of(pipe.answered(1, [], 0), "a")
    assert isinstance(error, SteleError)
    assert not error.definite
