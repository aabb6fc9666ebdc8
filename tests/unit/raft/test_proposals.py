"""What a group has in flight is bounded, and whatever its users propose leaves room for a change of its members."""

from __future__ import annotations

import pytest

from stele.services.errors import LogDamaged, NotReady, Overloaded, ProposalLost
from stele.services.raft import applier, proposals
from stele.services.raft.journal import Journal
from stele.services.raft.membership import MEMBERS_MAX, encode
from stele.services.raft.proposals import Proposals
from stele.services.raft.storage import REGULAR, Entry, Members
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench, Commands

WITH_LEARNER = Members((1, 2, 3), (4,))


def led() -> Bench:
    """Store 4 is none of the group's yet."""
    bench = Bench(3, spare=1)
    bench.elect(1, without=(4,))
    bench.settle(without=(4,))
    return bench


def fill(bench: Bench, payload: bytes = b"a") -> int:
    """Proposes until the leader refuses, while nobody else stores anything; how many it took."""
    for other in (2, 3):
        bench.sync[other] = False
    for taken in range(1_000):
        try:
            bench.propose(1, payload)
        except Overloaded:
            return taken
    raise AssertionError("it takes everything")


async def test_a_group_takes_no_more_than_it_may_have_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "PENDING_MAX", 3)

    @with_part
    async def scenario() -> None:
        bench = led()
        with promise("what a group has in flight is bounded"):
            fill(bench)
            assert len(bench.engines[1].proposals) < 3

    await holds_and_mutant_fails(scenario, Proposals, "replication.TakesAllThatIsProposed")


def test_a_full_group_changes_its_members_and_stays_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "PENDING_MAX", 3)
    bench = led()
    pending = bench.engines[1].proposals
    assert fill(bench) > 0
    bench.change(1, WITH_LEARNER)
    assert len(pending) <= 3
    with pytest.raises(Overloaded):
        bench.propose(1, b"b")
    bench.sync[2] = bench.sync[3] = True
    bench.settle()
    assert bench.changes == [None]
    assert len(pending) == 0


def test_bytes_go_beyond_their_bound_by_one_entry_and_not_by_a_change_of_members_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit, largest = 600, 1_000
    monkeypatch.setattr(proposals, "PENDING_BYTES_MAX", limit)
    room = fill(led())  # in bytes, of entries of one
    bench = led()
    bench.propose(1, bytes(room - 1))
    assert fill(bench, bytes(largest)) == 1
    bench.change(1, WITH_LEARNER)
    assert limit < bench.engines[1].proposals._bytes <= limit + largest


def test_every_change_of_members_fits_into_the_bytes_that_are_kept_for_it() -> None:
    most = [(1 << 64) - 1 - i for i in range(MEMBERS_MAX)]
    for voters in (1, MEMBERS_MAX // 2, MEMBERS_MAX):
        assert len(encode(Members(tuple(most[:voters]), tuple(most[voters:])))) <= proposals.CHANGE_BYTES_MAX


def test_a_change_of_members_waits_until_the_one_before_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed is applied by turns, and in flight until then: each change that was begun meanwhile would take a place more."""
    bench = led()
    leader = bench.engines[1]
    monkeypatch.setattr(applier, "APPLY_ENTRIES_MAX", 1)
    fill_up = [b"%d" % i for i in range(100)]
    bench.propose(1, *fill_up)
    bench.change(1, WITH_LEARNER)
    bench.settle(2)
    assert leader.applied_index < leader.journal.members.index <= leader.commit_index
    with pytest.raises(NotReady, match="already"):
        bench.change(1, Members((1, 2, 3)))
    bench.settle(40)
    assert bench.changes == [None]
    bench.change(1, Members((1, 2, 3)))
    bench.settle(2)
    assert bench.changes == [None, None]


def test_what_is_damaged_before_it_is_applied_ends_and_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one replica goes on behind it."""

    def damaged(journal: Journal, first: int, last: int, bytes_max: int) -> list[Entry]:
        if first == at:
            raise LogDamaged("damaged", index=at)
        return read(journal, first, min(last, at - 1) if first < at else last, bytes_max)

    bench = Bench(1)
    leader = bench.elect(1)
    bench.settle()
    at, read = leader.journal.last_index + 2, Journal.read
    monkeypatch.setattr(Journal, "read", damaged)
    monkeypatch.setattr(Journal, "read_damaged", lambda journal, index: Entry(index, leader.term, REGULAR, b"?"))
    monkeypatch.setattr(Commands, "apply_damaged", lambda machine, index, payload: True, raising=False)
    bench.propose(1, b"a", b"b", b"c")
    bench.settle()
    assert bench.machines[1].applied == [b"a", b"c"]
    assert isinstance(bench.outcomes[b"b"], ProposalLost)
    assert len(leader.proposals) == 0
    leader.proposals.validate()
