"""Which peers are alive, told from what they say."""

from __future__ import annotations

import random

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.lanes import FRAME_BYTES_MAX, QUEUE_BYTES_MAX, Lanes
from stele.services.raft.links import Stream, takes_over
from stele.services.raft.liveness import NEVER, Liveness


def test_an_idle_link_is_greeted_once_per_interval_and_a_busy_one_never() -> None:
    liveness = Liveness(heartbeat_s=0.1, silence_s=1.0)
    liveness.connected(2, 0.0)
    liveness.connected(3, 0.0)
    now, greeted = 0.0, {2: 0, 3: 0}
    while now < 10.0:
        due = liveness.next_check(now)
        while now < due:
            now += 0.01
            liveness.on_sent(3, now)
            liveness.on_received(2, now)
            liveness.on_received(3, now)
        for store in liveness.check(now).greet:
            greeted[store] += 1
        liveness.validate()
    assert 90 <= greeted[2] <= 135
    assert greeted[3] == 0


def test_links_are_greeted_together() -> None:
    """However many links there are, and whenever they came up, one clockwork serves them."""
    liveness = Liveness(heartbeat_s=0.1, silence_s=1.0)
    rng = random.Random(1)
    for store in range(2, 102):
        liveness.connected(store, rng.uniform(0, 0.1))
    now, checks = 0.1, 0
    while now < 10.0:
        now = liveness.next_check(now)
        liveness.check(now)
        checks += 1
        for store in range(2, 102):
            liveness.on_received(store, now)
    assert checks <= 150


def test_silence_is_said_once_and_ends_with_a_word() -> None:
    liveness = Liveness(0.1, 1.0)
    liveness.connected(2, 0.0)
    said, now = [], 0.0
    while now < 5.0:
        now = liveness.next_check(now)
        said += [(store, round(now, 2)) for store in liveness.check(now).silent]
    assert [store for store, _ in said] == [2]
    assert 1.0 <= said[0][1] <= 1.1
    assert not liveness.is_live(2, now)
    assert liveness.last_active(2) == 0.0
    assert liveness.on_received(2, now)
    assert not liveness.on_received(2, now)
    assert liveness.is_live(2, now)


def test_a_store_that_was_stalled_itself_judges_nobody_before_it_has_read_what_waits() -> None:
    liveness = Liveness(0.1, 1.0)
    liveness.connected(2, 0.0)
    now = liveness.next_check(0.0)
    liveness.check(now)
    liveness.next_check(now)
    now += 5.0  # stopped, or the loop was held
    assert liveness.check(now).silent == []
    assert liveness.next_check(now) <= now + 0.1
    assert not liveness.on_received(2, now + 0.01)
    assert liveness.check(now + 0.11).silent == []


def test_a_store_that_was_stalled_itself_does_not_wait_for_ever() -> None:
    liveness = Liveness(0.1, 1.0)
    liveness.connected(2, 0.0)
    now = liveness.next_check(0.0) + 5.0
    silent = list(liveness.check(now).silent)
    while not silent and now < 6.0:
        now = liveness.next_check(now)
        silent += liveness.check(now).silent
    assert silent == [2]


def test_a_link_that_is_down_is_neither_greeted_nor_silent() -> None:
    liveness = Liveness(0.1, 1.0)
    assert liveness.next_check(0.0) == float("inf")
    assert liveness.last_active(2) == NEVER
    liveness.connected(2, 0.0)
    liveness.disconnected(2)
    assert liveness.next_check(0.0) == float("inf")
    check = liveness.check(10.0)
    assert (check.greet, check.silent) == ([], [])
    assert liveness.last_active(2) == 0.0
    liveness.connected(2, 20.0)
    assert liveness.check(20.5).silent == []


def test_of_two_streams_both_ends_keep_the_same_one() -> None:
    lower, higher = Stream(by_lower=True), Stream(by_lower=False)
    assert takes_over(True, None, False)
    assert takes_over(False, None, False)
    assert takes_over(True, lower, True)  # the newer of two by one dialler
    assert takes_over(False, higher, True)
    assert takes_over(True, higher, True)  # the lower one's goes before, whichever is seen first
    assert not takes_over(False, lower, True)
    assert takes_over(False, lower, False)  # unless nothing is heard on it


def test_a_queue_is_cut_into_frames_and_is_bounded() -> None:
    lanes = Lanes()
    message = pb.RaftMessage(append_entries=pb.AppendEntries(payloads=[b"x" * 300_000]))
    for _ in range(10):
        assert lanes.put(message)
    frames = []
    while messages := lanes.take():
        frames.append(len(messages))
    assert sum(frames) == 10
    assert max(frames) == FRAME_BYTES_MAX // message.ByteSize() + 1
    fits = QUEUE_BYTES_MAX // message.ByteSize()
    assert all(lanes.put(message) for _ in range(fits))
    assert not lanes.put(message)
    lanes.clear()
    assert lanes.put(message)
