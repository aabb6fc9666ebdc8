"""The log against a list, under any order of calls, kills and power losses."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stele.services.raft.storage import MEMBERSHIP, Entry
from tests.support.disks import SimulatedDisk
from tests.unit.log.logs import entry, everything, open_log


class LogAgainstList(RuleBasedStateMachine):
    @initialize(segment_bytes=st.sampled_from([200, 1000, 5000]))
    def start(self, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.disk = SimulatedDisk()
        self.log = open_log(self.disk, segment_bytes)
        self.model: list[Entry] = []
        self.first = 1
        self.promised = 0
        self.term = 1
        self.before = 0  # the term of the entry before the first

    @property
    def last(self) -> int:
        return self.first - 1 + len(self.model)

    @rule(
        sizes=st.lists(st.integers(0, 400), max_size=10),
        new_term=st.booleans(),
        kind=st.sampled_from([0, 1, MEMBERSHIP, 3, 126]),
    )
    def append(self, sizes: list[int], new_term: bool, kind: int) -> None:
        self.term += new_term
        more = [entry(self.last + step, self.term, size, kind) for step, size in enumerate(sizes, 1)]
        self.log.append(more)
        self.model += more

    @rule()
    def sync(self) -> None:
        self.log.sync()
        self.promised = self.last

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(self.first, self.last + 2))
        self.log.truncate_from(index)
        del self.model[max(0, index - self.first) :]
        self.promised = min(self.promised, max(index - 1, self.first - 1))

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        before = data.draw(st.integers(0, self.last + 2))
        self.log.drop_before(before)
        assert self.first <= self.log.first_index <= max(self.first, before)
        gone = self.log.first_index - self.first
        self.before = self.model[gone - 1].term if gone else self.before
        del self.model[:gone]
        self.first = self.log.first_index

    @rule(data=st.data(), new_term=st.booleans())
    def reset(self, data: st.DataObject, new_term: bool) -> None:
        self.term += new_term
        index = data.draw(st.integers(self.first - 1, self.last + 20))
        self.log.reset(index, self.term)
        self.model.clear()
        self.first, self.promised, self.before = index + 1, index, self.term

    @rule(data=st.data(), bytes_max=st.integers(0, 2000))
    def read(self, data: st.DataObject, bytes_max: int) -> None:
        first = data.draw(st.integers(0, self.last + 3))
        last = data.draw(st.integers(0, self.last + 3))
        if first < self.first and first <= min(last, self.last):
            with pytest.raises(IndexError):
                self.log.read(first, last, bytes_max)
            return
        wanted: list[Entry] = []
        for e in self.model[first - self.first : last - self.first + 1] if self.first <= first <= last else []:
            if wanted and sum(len(w.payload) for w in wanted) + len(e.payload) > bytes_max:
                break
            wanted.append(e)
        found = self.log.read(first, last, bytes_max)
        assert found == wanted[: len(found)]
        assert bool(found) == bool(wanted)
        assert len(found) == len(wanted) or sum(len(w.payload) for w in wanted) >= bytes_max

    @rule()
    def close_and_open(self) -> None:
        self.log.close()
        self.log = open_log(self.disk, self.segment_bytes)
        self.promised = self.last

    @rule()
    def kill_and_open(self) -> None:
        self.disk.kill()
        self.log = open_log(self.disk, self.segment_bytes)
        self.promised = self.last

    @rule(seed=st.integers(0, 1 << 32))
    def lose_power_and_open(self, seed: int) -> None:
        self.disk.crash(random.Random(seed))
        self.log = open_log(self.disk, self.segment_bytes)
        assert self.promised <= self.log.last_index <= self.last
        del self.model[self.log.last_index - self.first + 1 :]
        self.promised = self.last

    @invariant()
    def agrees(self) -> None:
        assert (self.log.first_index, self.log.last_index) == (self.first, self.last)
        assert everything(self.log) == self.model
        assert self.log.term_at(self.first - 1) == self.before
        assert self.log.memberships() == [e for e in self.model if e.kind == MEMBERSHIP]
        assert self.log.bytes == sum(25 + len(e.payload) for e in self.model)


LogAgainstList.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLogAgainstList = LogAgainstList.TestCase
