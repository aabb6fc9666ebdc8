"""The pure decisions, every case of them."""

from __future__ import annotations

import dataclasses
import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.services.coordination import incarnation, members, names
from stele.services.coordination.claim import PAUSE_S_MAX, PAUSE_S_MIN, QUIET_S, Decision, next_pause
from stele.services.coordination.election import Standing, stand
from stele.services.coordination.incarnation import Fate, fate
from stele.services.coordination.names import Guard
from stele.services.coordination.records import Incarnation, NameRecord
from stele.services.coordination.session import SessionState, is_fenced

MINE = NameRecord(endpoint="a:1", session=1, owner=Incarnation(instance="me"))
MY_PAST = dataclasses.replace(MINE, session=7)
OTHER = NameRecord(endpoint="b:1", session=2, owner=Incarnation(instance="other"))


@pytest.mark.parametrize(
    ("record", "guard", "decision"),
    [
        (None, Guard.ABSENT, Decision.CREATE),  # R1.3
        (MINE, Guard.OURS, Decision.KEEP),  # R1.4
        (MY_PAST, Guard.OURS, Decision.REFRESH),
        (MY_PAST, Guard.ABSENT, Decision.REFRESH),  # R1.4
        (MY_PAST, Guard.PAST, Decision.REPLACE),  # R1.9
        (OTHER, Guard.ABSENT, Decision.TAKE_OVER),  # R1.6
        (OTHER, Guard.PAST, Decision.REPLACE),  # R1.9
        (OTHER, Guard.LIVE, Decision.REFUSE),  # R1.5
        (OTHER, Guard.UNPROVEN, Decision.WAIT),  # R1.9
        (MY_PAST, Guard.LIVE, Decision.REFUSE),
    ],
)
def test_r1_2_to_r1_6_decide(record: NameRecord | None, guard: Guard, decision: Decision) -> None:
    assert names.decide(record, MINE, guard) is decision


def test_r1_5_a_guarded_name_is_never_written_unless_its_process_is_over() -> None:
    for record, guard in itertools.product((MINE, MY_PAST, OTHER), (Guard.LIVE, Guard.UNPROVEN)):
        assert names.decide(record, MINE, guard) in (Decision.REFUSE, Decision.WAIT)


@pytest.mark.parametrize(
    ("holder", "up_to_date", "decision"),
    [
        (members.Holder.NOBODY, False, Decision.CREATE),
        (members.Holder.US, True, Decision.KEEP),
        (members.Holder.US, False, Decision.REFRESH),
        (members.Holder.LEFTOVER, True, Decision.REPLACE),  # R5.3: its content does not matter
        (members.Holder.LEFTOVER, False, Decision.REPLACE),
        (members.Holder.PAST, True, Decision.REPLACE),  # R5.4
        (members.Holder.PAST, False, Decision.REPLACE),
        (members.Holder.OTHER, True, Decision.REFUSE),  # R5.5
        (members.Holder.OTHER, False, Decision.REFUSE),
        (members.Holder.UNPROVEN, True, Decision.WAIT),
        (members.Holder.UNPROVEN, False, Decision.WAIT),
    ],
)
def test_r5_2_to_r5_5_decide(holder: members.Holder, up_to_date: bool, decision: Decision) -> None:
    assert members.decide(holder, up_to_date) is decision


ME = Incarnation(instance="me", machine="m", pid=os.getpid(), pid_started=incarnation.started(os.getpid()) or 1)


@pytest.mark.parametrize(
    ("other", "endpoint", "proven"),
    [
        (dataclasses.replace(ME), "b:1", Fate.OWN),  # this very process, an earlier session
        (Incarnation(instance="o"), "a:1", Fate.OWN),  # its port is ours now
        (Incarnation(instance="o"), "b:1", Fate.UNKNOWN),
        (Incarnation(instance="o", machine="elsewhere", pid=1, pid_started=1), "b:1", Fate.UNKNOWN),
        (Incarnation(instance="o", machine="m", pid=0, pid_started=0), "b:1", Fate.UNKNOWN),
        (dataclasses.replace(ME, instance="o"), "b:1", Fate.ALIVE),
        (dataclasses.replace(ME, instance="o", pid_started=ME.pid_started + 1), "b:1", Fate.DEAD),  # the pid was reused
        (dataclasses.replace(ME, instance="o", pid=2**22 + 1), "b:1", Fate.DEAD),
    ],
)
def test_r1_9_what_is_proven_of_another_run(other: Incarnation, endpoint: str, proven: Fate) -> None:
    assert fate(other, endpoint, ME, "a:1") is proven


def test_r1_9_an_endpoint_opened_long_ago_proves_nothing() -> None:
    assert fate(Incarnation(instance="o"), "a:1", ME, "") is Fate.UNKNOWN


def test_r1_9_only_a_locked_identity_proves_across_machines() -> None:
    there = Incarnation(instance="o", machine="elsewhere", identity="uuid")
    assert fate(there, "b:1", dataclasses.replace(ME, identity="uuid"), "a:1") is Fate.OWN
    assert fate(there, "b:1", dataclasses.replace(ME, identity="another"), "a:1") is Fate.UNKNOWN
    assert fate(dataclasses.replace(there, identity=""), "b:1", ME, "a:1") is Fate.UNKNOWN


def test_this_process_can_be_told_from_others() -> None:
    assert incarnation.current().instance != incarnation.current().instance
    assert incarnation.started(os.getpid())
    assert incarnation.started(2**22 + 1) is None


def test_the_oldest_candidate_leads_and_each_watches_the_one_before() -> None:
    names_ = [f"c-{n:010d}" for n in (7, 3, 11)]
    assert stand(names_, "c-0000000003") == Standing(True)
    assert stand(names_, "c-0000000007") == Standing(False, "c-0000000003")
    assert stand(names_, "c-0000000011") == Standing(False, "c-0000000007")


@given(
    since_heard=st.floats(0, 60),
    since_suspended=st.floats(0, 60),
    negotiated=st.floats(1, 60),
    suspended=st.booleans(),
)
def test_the_fence_falls_before_the_session_can_be_over(
    since_heard: float, since_suspended: float, negotiated: float, suspended: bool
) -> None:
    state = SessionState.SUSPENDED if suspended else SessionState.CONNECTED
    fenced = is_fenced(state, 100.0, 100.0 - since_heard, 100.0 - since_suspended, negotiated)
    if since_heard >= negotiated or (suspended and since_suspended >= negotiated / 3):
        assert fenced
    if since_heard < negotiated * 0.9 and (not suspended or since_suspended < negotiated / 5):
        assert not fenced


@pytest.mark.parametrize("state", [SessionState.CONNECTING, SessionState.LOST, SessionState.CLOSED])
def test_without_a_session_everything_is_fenced(state: SessionState) -> None:
    assert is_fenced(state, 0.0, 0.0, 0.0, 4.0)


def test_r5_8_writes_in_a_row_slow_down_and_quiet_forgets() -> None:
    pause, total = 0.0, 0.0
    for _ in range(20):
        pause = next_pause(pause, since_last_s=0.0)
        total += pause
        assert PAUSE_S_MIN <= pause <= PAUSE_S_MAX
    assert pause == PAUSE_S_MAX
    assert total > 15 * PAUSE_S_MAX * 0.9
    assert next_pause(pause, since_last_s=QUIET_S + 0.1) == 0.0
