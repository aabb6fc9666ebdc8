"""The loop by which names and member nodes are claimed, against a thing that is claimed in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stele.services.coordination import claim
from stele.services.coordination.claim import ROUNDS_MAX, Claim, Decision, Seen
from stele.services.coordination.records import NameRecord
from stele.services.coordination.session import Session
from stele.services.errors import CoordinationUnknown, NameTaken, SteleError, VersionConflict

MINE = NameRecord(endpoint="a:1", session=1)
SESSION_TIMEOUT_S = 0.5


class Scripted:
    """Decides as it is told, round by round, the last decision for ever; a write fails as it is told."""

    def __init__(self, *decisions: Decision, failures: tuple[SteleError | None, ...] = ()) -> None:
        self.decisions, self.failures = list(decisions), list(failures)
        self.events: list[str] = []
        self.unreadable = False

    async def read(self) -> Seen[NameRecord]:
        self.events.append("read")
        if self.unreadable:
            raise CoordinationUnknown("no answer")
        return Seen(MINE, 3, 7)

    def mine(self) -> NameRecord:
        return MINE

    def decide(self, seen: Seen[NameRecord], mine: NameRecord) -> Decision:
        return self.decisions.pop(0) if len(self.decisions) > 1 else self.decisions[0]

    async def write(self, decision: Decision, seen: Seen[NameRecord], mine: NameRecord) -> None:
        self.events.append(decision.value)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def kept(self, seen: Seen[NameRecord]) -> None:
        self.events.append("kept")

    def refusal(self, seen: Seen[NameRecord]) -> NameTaken:
        return NameTaken("taken")


Claiming = Callable[[Scripted], Claim[NameRecord]]


@pytest.fixture
def claiming(monkeypatch: pytest.MonkeyPatch) -> Claiming:
    monkeypatch.setattr(claim, "PAUSE_S_MAX", 0.0)
    monkeypatch.setattr(claim, "PAUSE_S_MIN", 0.0)
    monkeypatch.setattr(claim, "WAIT_MARGIN_S", 0.0)
    monkeypatch.setattr(claim, "WAIT_STEP_S", SESSION_TIMEOUT_S / 4)
    session = Session("127.0.0.1:1", "test", SESSION_TIMEOUT_S)
    return lambda scripted: Claim(session, "name ns1", scripted)


async def test_r5_2_what_was_written_is_read_back(claiming: Claiming) -> None:
    scripted = Scripted(Decision.CREATE, Decision.KEEP)
    await claiming(scripted).settle()
    assert scripted.events == ["read", "create", "read", "kept"]


@pytest.mark.parametrize("failure", [VersionConflict("faster"), CoordinationUnknown("no answer")])
async def test_r5_6_a_lost_race_and_a_lost_answer_are_settled_by_reading(
    claiming: Claiming, failure: SteleError
) -> None:
    scripted = Scripted(Decision.CREATE, Decision.TAKE_OVER, Decision.KEEP, failures=(failure,))
    await claiming(scripted).settle()
    assert scripted.events == ["read", "create", "read", "take over", "read", "kept"]


async def test_r1_1_nothing_is_written_without_an_answer(claiming: Claiming) -> None:
    scripted = Scripted(Decision.CREATE)
    scripted.unreadable = True
    with pytest.raises(CoordinationUnknown):
        await claiming(scripted).settle()
    assert scripted.events == ["read"]


async def test_r1_5_a_refusal_ends_it_at_once(claiming: Claiming) -> None:
    scripted = Scripted(Decision.REFUSE)
    with pytest.raises(NameTaken):
        await claiming(scripted).settle()
    assert scripted.events == ["read"]


async def test_r1_9_an_unproven_owner_is_waited_for_and_then_respected(claiming: Claiming) -> None:
    scripted = Scripted(Decision.WAIT)
    with pytest.raises(NameTaken):
        await claiming(scripted).settle()
    assert scripted.events.count("read") >= 4
    assert set(scripted.events) == {"read"}


async def test_rounds_are_bounded(claiming: Claiming) -> None:
    scripted = Scripted(Decision.REFRESH)
    with pytest.raises(CoordinationUnknown, match="not settled"):
        await claiming(scripted).settle()
    assert scripted.events.count("refresh") == ROUNDS_MAX


async def test_who_no_longer_wants_it_writes_nothing_more(claiming: Claiming) -> None:
    scripted = Scripted(Decision.CREATE)
    settling = claiming(scripted)
    settling.abandoned = True
    await settling.settle()
    assert scripted.events == []
