"""ReadIndex (H15), played by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stele.services.errors import NotLeader, SteleError
from stele.services.raft.read_index import ReadIndex
from stele.services.raft.registry import Registry
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.eventually import eventually
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench
from tests.unit.raft.lone import Commands, registry


class Read:
    """A read under way; ``seen``: what the machine held when it was done."""

    def __init__(self, bench: Bench, store: int) -> None:
        self._bench, self._store = bench, store
        self.seen: list[bytes] | None = None
        self.error: SteleError | None = None
        bench.engines[store].read_index(self._done)
        bench.turn(store)

    def _done(self, index: int, error: SteleError | None) -> None:
        self.error = error
        if error is None:
            self.seen = list(self._bench.machines[self._store].applied)


def test_a_read_takes_one_round_and_no_entry() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    bench.propose(1, b"a")
    bench.settle()
    last = leader.journal.last_index
    read = Read(bench, 1)
    assert read.seen is None, "nobody has answered since it arrived"
    bench.deliver(1, 2)
    bench.deliver(2, 1)
    assert read.seen == [b"a"]
    assert leader.journal.last_index == last


async def test_a_read_of_a_group_with_one_member_is_done(tmp_path: Path) -> None:
    """No answer follows that would bring another turn."""
    groups = registry(Registry, tmp_path)
    try:
        group = await groups.create(1, [1], Commands())
        await eventually(lambda: group.is_leader)
        await group.propose(b"a")
        assert await asyncio.wait_for(group.read_index(), 5.0) == group.applied_index
    finally:
        await groups.close()


async def test_a_deposed_leader_answers_no_read() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench()
        bench.elect(1)
        bench.settle()
        bench.propose(1, b"a")
        bench.settle()
        bench.elect(2, without=(1,))
        bench.propose(2, b"b")
        bench.settle(3, without=(1,))
        assert bench.outcomes[b"b"] == 2
        read = Read(bench, 1)  # it does not know yet that it was deposed
        bench.settle(3)
        with promise("a read sees every write that was acknowledged before it"):
            assert read.seen is None or b"b" in read.seen
        assert isinstance(read.error, NotLeader)

    await holds_and_mutant_fails(scenario, ReadIndex, "replication.ReadsWithoutARound")


async def test_a_new_leader_reads_only_after_an_entry_of_its_own() -> None:
    @with_part
    async def scenario() -> None:
        bench = Bench()
        bench.elect(1)
        bench.settle()
        bench.propose(1, b"a")
        for _ in range(2):  # acknowledged; the others do not know yet that it is committed
            bench.deliver(1, 2)
            bench.deliver(1, 3)
            for m in (2, 3):
                wire = bench.wires[(m, 1)]
                while wire:
                    bench.engines[1].receive(m, wire.popleft())
        bench.engines[1].tick()
        assert bench.outcomes[b"a"] == 1
        for wire in bench.wires.values():
            wire.clear()
        bench.elect(2, without=(1,))
        bench.sync[3] = False  # its first own entry does not commit, but heartbeats are answered
        read = Read(bench, 2)
        bench.settle(3, without=(1,))
        with promise("a read sees every write that was acknowledged before it"):
            assert read.seen is None or b"a" in read.seen
        bench.sync[3] = True
        bench.settle(3, without=(1,))
        assert read.seen == [b"a"]

    await holds_and_mutant_fails(scenario, ReadIndex, "replication.ReadsBeforeItsOwnEntry")


def test_answers_to_earlier_heartbeats_do_not_confirm() -> None:
    bench = Bench()
    bench.elect(1)
    bench.settle()
    bench.now += 0.16
    bench.turn(1)
    for i in (2, 3):
        bench.deliver(1, i)  # heartbeats from before the read; their answers are on the way
    read = Read(bench, 1)
    asked = [m for m in bench.wires[(1, 2)]]
    assert asked
    for i in (2, 3):
        bench.deliver(i, 1)
    assert read.seen is None
    for i in (2, 3):
        bench.deliver(1, i)
        bench.deliver(i, 1)
    assert read.seen == []


def test_reads_that_arrive_during_a_round_share_the_next() -> None:
    bench = Bench()
    leader = bench.elect(1)
    bench.settle()
    first = Read(bench, 1)
    requests = leader.replication.newest_request
    later = [Read(bench, 1) for _ in range(100)]
    assert leader.replication.newest_request == requests, "no round of their own while one is under way"
    bench.deliver(1, 2)
    bench.deliver(2, 1)
    assert first.seen == []
    assert later[0].seen is None
    bench.deliver(1, 2)
    bench.deliver(2, 1)
    assert all(read.seen == [] for read in later)


def test_a_group_of_one_reads_at_once() -> None:
    bench = Bench(1)
    bench.now += 3
    bench.turn(1)
    bench.propose(1, b"a")
    assert Read(bench, 1).seen == [b"a"]


def test_followers_refuse_and_a_lost_leadership_ends_reads() -> None:
    bench = Bench()
    bench.elect(1)
    bench.settle()
    with pytest.raises(NotLeader):
        bench.engines[2].read_index(lambda index, error: None)
    read = Read(bench, 1)
    for wire in bench.wires.values():
        wire.clear()
    bench.alone(1, 2.2)
    assert isinstance(read.error, NotLeader)
    assert read.error.definite
