"""Elections end although a vote takes the disk longer than candidates are patient, as when a thousand groups elect at once."""

from __future__ import annotations

import pytest

from stele.services.raft.election import RaftElection
from stele.services.raft.journal import Flush
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.in_place import with_part
from tests.unit.raft.bench import Bench

STEP_S = 0.02
WITHIN_S = 60.0


def seconds_until_led(flush_s: float) -> float:
    """Each flush of each store takes ``flush_s``; messages take no time."""
    bench = Bench(3)
    under_way: dict[int, tuple[Flush, float]] = {}
    bench.sync = dict.fromkeys(bench.ids, False)
    begin = bench.now
    while not any(engine.is_leader for engine in bench.engines.values()):
        assert bench.now < begin + WITHIN_S, {i: e.term for i, e in bench.engines.items()}
        bench.now += STEP_S
        for i in bench.ids:
            journal = bench.engines[i].journal
            if i in under_way and under_way[i][1] <= bench.now:
                flush, _ = under_way.pop(i)
                flush.run()
                assert journal.finish(flush) is None
                bench.engines[i].synced()
            if i not in under_way and (begun := journal.begin()) is not None:
                under_way[i] = (begun, bench.now + flush_s)
            bench.turn(i)
        for a in bench.ids:
            for b in bench.ids:
                if a != b:
                    bench.deliver(a, b)
    return bench.now - begin


@pytest.mark.parametrize("flush_s", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_h15_elections_end_on_slow_disks(flush_s: float) -> None:
    assert seconds_until_led(flush_s) <= 5.0 + 6 * flush_s


async def test_h15_an_election_does_not_overtake_the_votes_of_the_last_one() -> None:
    @with_part
    async def scenario() -> None:
        for flush_s in (0.5, 1.0, 2.0):
            with promise("a slow disk does not keep a group from electing"):
                seconds_until_led(flush_s)

    await holds_and_mutant_fails(scenario, RaftElection, "elections.OvertakesItsVotes")
