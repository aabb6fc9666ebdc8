"""A disk that stands still, or is full, costs a bounded amount of memory: at the follower it belongs to, and at the leader."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stele.services.errors import DiskFull, Overloaded
from stele.services.raft import journal as journal_module
from stele.services.raft.journal import APPEND_BYTES_MAX, Journal, UnsyncedBytes
from stele.services.raft.progress import INFLIGHT_BYTES_MAX, Progress
from stele.services.raft.replication import BATCH_BYTES_MAX
from stele.services.raft.storage import Entry, Members
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench
from tests.unit.raft.platter import Platter, SimulatedLog, SimulatedSnapshots, SimulatedTerms

MIB = 1 << 20
UNSYNCED_BYTES_MAX = 16 * MIB


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "UNSYNCED_BYTES_MAX", UNSYNCED_BYTES_MAX)


def led() -> Bench:
    bench = Bench(3)
    bench.elect(1)
    bench.settle()
    return bench


def write(bench: Bench, mib: int, leader: int = 1) -> list[Overloaded]:
    """Proposes so much, the cluster going on meanwhile; what was refused."""
    refused: list[Overloaded] = []
    payload = bytes(MIB // 2)
    for _ in range(mib // 4):
        for _ in range(8):
            try:
                bench.propose(leader, payload)
            except Overloaded as e:
                refused.append(e)
        bench.outcomes.clear()
        bench.settle(1)
    return refused


async def test_p11_a_follower_that_syncs_nothing_is_sent_no_more_than_a_leader_has_in_flight() -> None:
    @with_part
    async def scenario() -> None:
        bench = led()
        bench.sync[3] = False
        leader, follower = bench.engines[1], bench.engines[3]
        synced = follower.journal.synced_index
        assert write(bench, 48) == []
        assert leader.commit_index == leader.journal.last_index  # the other two do without it
        with promise("what a follower has not stored stays in flight"):
            assert follower.journal.unsynced_bytes <= INFLIGHT_BYTES_MAX + BATCH_BYTES_MAX + MIB
            assert leader.replication.followers[3].inflight_bytes >= INFLIGHT_BYTES_MAX
        assert follower.journal.synced_index == synced
        assert 3 in leader.replication.active(bench.now)  # slow is not silent
        bench.sync[3] = True
        bench.settle(60)
        assert follower.journal.synced_index == leader.journal.last_index
        assert leader.replication.followers[3].inflight_bytes == 0

    await holds_and_mutant_fails(scenario, Progress, "replication.ReleasesWhatIsNotStored")


def test_p11_each_leader_that_follows_adds_to_what_is_not_synced_only_up_to_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a new leader has in flight begins at nothing: the follower has a bound of its own."""
    monkeypatch.setattr("stele.services.raft.progress.INFLIGHT_BYTES_MAX", 4 * UNSYNCED_BYTES_MAX)
    bench = led()
    bench.sync[3] = False
    write(bench, 64)
    follower, leader = bench.engines[3], bench.engines[1]
    assert UNSYNCED_BYTES_MAX <= follower.journal.unsynced_bytes < UNSYNCED_BYTES_MAX + 2 * BATCH_BYTES_MAX
    assert 3 in leader.replication.active(bench.now)
    refusals = []
    for _ in range(
        10
    ):  # it is not sent the same again and again: what it leaves out it does not ask for before there is room
        bench.now += 0.16
        bench.turn(1)
        bench.deliver(1, 3)
        refusals += [m for m in bench.deliver(3, 1) if not m.append_answer.success]
    assert refusals == []
    bench.sync[3] = True
    bench.settle(60)
    assert follower.journal.synced_index == leader.journal.last_index
    assert bench.machines[3].applied == bench.machines[1].applied


def test_p11_a_leader_whose_disk_stands_still_refuses_what_it_cannot_store() -> None:
    bench = led()
    bench.sync[1] = False
    leader = bench.engines[1]
    for other in (2, 3):
        bench.may_lead[other] = False
    refused = write(bench, 48)
    assert leader.is_leader
    assert UNSYNCED_BYTES_MAX <= leader.journal.unsynced_bytes < UNSYNCED_BYTES_MAX + 2 * MIB
    assert refused
    assert all(e.definite and e.retryable and e.facts["limit"] for e in refused)
    last = leader.journal.last_index
    bench.sync[1] = True
    bench.settle(3)
    bench.propose(1, b"more")
    bench.settle(3)
    assert leader.commit_index == leader.journal.last_index == last + 1


def test_p11_a_leader_whose_disk_stands_still_hands_over_to_one_whose_disk_does_not() -> None:
    bench = led()
    bench.sync[1] = False
    bench.propose(1, b"a")
    bench.settle(4)
    assert bench.engines[1].is_leader  # a sync may take a while
    bench.settle(20)
    assert not bench.engines[1].is_leader
    (successor,) = (i for i in (2, 3) if bench.engines[i].is_leader)
    bench.propose(successor, b"b")
    bench.settle(3)
    assert bench.outcomes[b"b"] == 2
    bench.sync[1] = True
    bench.settle(20)
    assert bench.machines[1].applied == [b"a", b"b"]
    assert bench.engines[successor].is_leader


def test_p11_a_leader_keeps_what_nobody_stores_faster() -> None:
    """Where all disks stand still, another leader would do no better."""
    bench = led()
    bench.sync = dict.fromkeys(bench.ids, False)
    bench.propose(1, b"a")
    bench.settle(40)
    assert bench.engines[1].is_leader
    bench.sync = dict.fromkeys(bench.ids, True)
    bench.settle(3)
    assert bench.outcomes[b"a"] == 1


def test_p11_answers_that_wait_for_a_disk_are_bounded() -> None:
    bench = led()
    bench.sync[3] = False
    bench.propose(1, b"a")
    bench.settle(200)
    assert len(bench.engines[3].outbox) <= 4
    bench.sync[3] = True
    bench.settle(3)
    assert bench.engines[1].match_index(3) == bench.engines[1].journal.last_index


class Sizes(SimulatedLog):
    """Notes how much each append takes; full once ``room`` bytes are written."""

    room = 1 << 40

    def append(self, entries: Sequence[Entry]) -> None:
        size = sum(len(entry.payload) for entry in entries)
        if size > self.room:
            raise DiskFull("simulated ENOSPC")
        self.room -= size
        self.sizes.append(size)
        super().append(entries)

    sizes: list[int]


def test_p11_what_waits_for_a_disk_is_written_in_pieces_and_none_of_them_twice() -> None:
    platter = Platter()
    log = Sizes(platter)
    log.sizes, log.room = [], 3 * APPEND_BYTES_MAX
    journal = Journal(log, SimulatedTerms(platter), SimulatedSnapshots(platter), Members((1,)))
    count = 10 * APPEND_BYTES_MAX // MIB
    for index in range(1, count + 1):
        journal.append(Entry(index, 1, 0, bytes(MIB)))
    flush = journal.begin()
    assert flush is not None
    flush.run()
    assert isinstance(journal.finish(flush), DiskFull)
    assert journal.unsynced_bytes >= count * MIB
    log.room = 1 << 40
    again = journal.begin()
    assert again is not None
    again.run()
    assert journal.finish(again) is None
    assert max(log.sizes) <= APPEND_BYTES_MAX + MIB
    assert log.last_index == journal.synced_index == count
    assert journal.unsynced_bytes == 0


def journal_on(disk: UnsyncedBytes, platter: Platter) -> Journal:
    log = SimulatedLog(platter)
    return Journal(log, SimulatedTerms(platter), SimulatedSnapshots(platter), Members((1,)), on_disk=disk)


def fill(journal: Journal) -> None:
    while not journal.is_full:
        journal.append(Entry(journal.last_index + 1, 1, 0, bytes(MIB)))


def test_p11_many_groups_on_one_disk_that_stands_still_have_one_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "DISK_UNSYNCED_BYTES_MAX", 2 * UNSYNCED_BYTES_MAX)
    disk = UnsyncedBytes()
    journals = [journal_on(disk, Platter()) for _ in range(10)]
    for journal in journals:
        fill(journal)
    assert disk.total == sum(journal.unsynced_bytes for journal in journals)
    assert disk.total <= 2 * UNSYNCED_BYTES_MAX + len(journals) * 2 * MIB
    assert all(journal.unsynced_bytes > 0 for journal in journals)  # none is kept from what it has to store
    journals[0].close()  # its group is stopped
    flush = journals[1].begin()
    assert flush is not None
    flush.run()
    assert journals[1].finish(flush) is None
    assert disk.total == sum(journal.unsynced_bytes for journal in journals) < UNSYNCED_BYTES_MAX
    assert not journals[2].is_full
