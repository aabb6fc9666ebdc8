"""What many groups send over one link: words before bulk, bulk by turns, and little at first on a link that is new."""

from __future__ import annotations

import random
from collections import Counter

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.lanes import BULK_BYTES_MAX, QUEUE_BYTES_MAX, Lanes
from stele.services.raft.links import STEADY_S, Link, Stream
from stele.services.raft.replication import BATCH_BYTES_MAX
from stele.services.rarely import SAID_EVERY_S, Rarely
from tests.unit.raft.bench import Bench

MIB = 1 << 20


def entries(group: int, size: int = BATCH_BYTES_MAX) -> pb.RaftMessage:
    return pb.RaftMessage(group=group, append_entries=pb.AppendEntries(payloads=[bytes(size)]))


def heartbeat(group: int) -> pb.RaftMessage:
    return pb.RaftMessage(group=group, append_entries=pb.AppendEntries(request=9))


def answer(group: int) -> pb.RaftMessage:
    return pb.RaftMessage(group=group, append_answer=pb.AppendAnswer(request=9))


def taken(lanes: Lanes) -> list[tuple[int, str]]:
    what = []
    while frame := lanes.take():
        for m in frame:
            bulk = m.append_entries.payloads
            what.append((m.group, "bulk" if bulk else (m.WhichOneof("body") or "")))
    return what


def test_p12_heartbeats_and_votes_go_before_the_entries_of_others() -> None:
    lanes = Lanes()
    for group in (1, 2, 3):
        lanes.put(entries(group))
    lanes.put(heartbeat(4))
    lanes.put(pb.RaftMessage(group=1, request_vote=pb.RequestVote()))
    lanes.put(answer(2))
    first = lanes.take()
    assert [m.group for m in first][:3] == [4, 1, 2]
    assert [m.WhichOneof("body") for m in first][:3] == ["append_entries", "request_vote", "append_answer"]


def test_p12_what_a_leader_says_to_a_follower_stays_in_order_within_its_group() -> None:
    lanes = Lanes()
    lanes.put(entries(1))
    lanes.put(heartbeat(1))
    lanes.put(pb.RaftMessage(group=1, awake=pb.Awake()))
    lanes.put(heartbeat(2))
    assert taken(lanes) == [(2, "append_entries"), (1, "bulk"), (1, "append_entries"), (1, "awake")]
    lanes.put(heartbeat(1))  # nothing of its group waits any more
    lanes.put(entries(2))
    assert taken(lanes) == [(1, "append_entries"), (2, "bulk")]


def test_p12_all_groups_get_their_turn_and_little_waits() -> None:
    """A hundred groups with 8 MiB each to send, one of them with ten times as much; whoever has no turn asks again when told."""
    lanes, left, sent = Lanes(), dict.fromkeys(range(100), 8), Counter[int]()
    left[0] = 80
    most = 0

    def try_(group: int) -> None:
        nonlocal most
        ahead = 0
        while left[group] and lanes.may_send(group, ahead):
            left[group] -= 1
            ahead += BATCH_BYTES_MAX
            assert lanes.put(entries(group))
        most = max(most, lanes._bulk_bytes)

    for group in left:
        try_(group)
    after = {}
    while any(left.values()) or lanes._bulk:
        for m in lanes.take():
            sent[m.group] += 1
        for group in lanes.next_turns():
            try_(group)
        if sum(sent.values()) in (300, 700):
            after[sum(sent.values())] = dict(sent)
    assert sent == {0: 80, **dict.fromkeys(range(1, 100), 8)}
    assert most <= BULK_BYTES_MAX + 2 * BATCH_BYTES_MAX
    for so_far in after.values():  # nobody is ahead of another by more than its first go
        assert max(so_far.values()) - min(so_far.values()) <= BULK_BYTES_MAX // BATCH_BYTES_MAX + 1


def test_p12_a_turn_that_nobody_uses_holds_up_no_others() -> None:
    lanes, rng = Lanes(), random.Random(1)
    for group in range(20):
        while lanes.may_send(group, 0):
            lanes.put(entries(group))
    live = {7}
    sent = 0
    for _ in range(200):
        sent += len(lanes.take())
        told = [group for group in lanes.next_turns() if group in live]
        if rng.random() < 0.2:  # a heartbeat is due: it tries without being told
            told.append(7)
        for group in told:
            if lanes.may_send(group, 0):
                lanes.put(entries(group))
    assert sent > 30


def test_p12_on_a_new_link_one_small_request_is_answered_before_more_goes() -> None:
    bench = Bench(3)
    bench.elect(1)
    bench.settle()
    leader, follower = bench.engines[1], bench.engines[3]
    leader.disconnected(3)
    follower.disconnected(1)
    bench.propose(1, *[bytes(MIB // 2) for _ in range(12)])
    bench.settle(2, without=[3])
    leader.connected(3)
    follower.connected(1)
    for _ in range(5):  # it does not answer: it is asked again, and sent nothing else
        bench.now += 0.16
        bench.turn(1)
        sent, bench.wires[(1, 3)] = list(bench.wires[(1, 3)]), type(bench.wires[(1, 3)])()
        assert len(sent) == 1
        assert sent[0].ByteSize() < 200
    bench.settle(6)
    assert leader.match_index(3) == leader.journal.last_index


def test_p12_streams_that_end_soon_count_as_dials_that_failed() -> None:
    link, now = Link(2, 0.0), 0.0
    for count in (1, 2, 3):
        link.begin(Stream(by_lower=True), now)
        now += STEADY_S / 2
        link.end(now)
        assert link.short_streams == count
    link.begin(Stream(by_lower=True), now)
    link.end(now + STEADY_S)
    assert link.short_streams == 0


def test_p12_what_happens_without_end_is_said_once_a_minute() -> None:
    rarely = Rarely()
    said = [(i, times) for i in range(1000) if (times := rarely.times(i * SAID_EVERY_S / 100))]
    assert said[0] == (0, 1)
    assert [times for _, times in said[1:]] == [100] * 9


def test_p12_what_a_peer_does_not_read_is_bounded() -> None:
    lanes = Lanes()
    size = heartbeat(1).ByteSize()
    lanes.put(entries(1, QUEUE_BYTES_MAX - 1000))
    put = sum(lanes.put(heartbeat(2)) for _ in range(1000))
    assert put <= 1000 // size
