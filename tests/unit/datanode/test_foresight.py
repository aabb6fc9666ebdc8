"""What a leader knows of batches before they are in its log, against a partition that is told everything by its log."""

from __future__ import annotations

import random
from collections import deque

import pytest

from stele.datanode import commands
from stele.datanode.commands import Appended, AppendOutcome, Refused
from stele.datanode.foresight import Foresight
from stele.datanode.partition import PartitionState
from stele.services.batch import BatchHeader, BatchRecord, encode, read_header
from tests.support.both_ways import holds_and_mutant_fails, promise


def make(producer: int, sequence: int, count: int) -> bytes:
    return encode([BatchRecord(b"%d" % i) for i in range(count)], producer, sequence)


class Leader:
    """Answers what it knows, proposes the rest, applies later."""

    def __init__(self, foresight: type[Foresight]) -> None:
        self.partition = PartitionState()
        self.foresight = foresight(self.partition)
        self.under_way: deque[tuple[bytes, list[BatchHeader], list[tuple[int, int]]]] = deque()
        self.results: dict[tuple[int, int], Appended | Refused] = {}
        self.entries = 0

    def append(self, number: int, batches: list[bytes], *, ask: bool) -> None:
        headers = [read_header(b) for b in batches]
        foreseen = self.foresight.ask(headers) if ask else None
        known = foreseen.known if foreseen is not None else {}
        self.results |= {(number, i): outcome for i, outcome in known.items()}
        left = [i for i in range(len(batches)) if i not in known]
        if left:
            chosen = [headers[i] for i in left]
            self.foresight.proposed(chosen, foreseen)
            payload = commands.encode_append(1, [batches[i] for i in left])
            self.under_way.append((payload, chosen, [(number, i) for i in left]))

    def apply(self) -> None:
        payload, headers, places = self.under_way.popleft()
        self.entries += 1
        outcome = self.partition.apply(self.entries, 1, payload)
        assert isinstance(outcome, AppendOutcome)
        self.results |= dict(zip(places, outcome.results, strict=True))
        self.foresight.settled(headers)


async def any_batches(foresight: type[Foresight]) -> None:
    for seed in range(300):
        rng = random.Random(seed)
        leader, reference = Leader(foresight), PartitionState()
        sequences = dict.fromkeys((0, 1, 2), 0)
        expected: dict[tuple[int, int], Appended | Refused] = {}
        for number in range(40):
            batches = []
            for _ in range(rng.randint(1, 4)):
                producer, count = rng.choice((0, 1, 1, 2)), rng.randint(1, 3)
                at = sequences[producer]
                if rng.random() < 0.4:
                    at = max(0, at + rng.randint(-6, 4))
                elif producer:
                    sequences[producer] += count
                batches.append(make(producer, at if producer else 0, count))
            outcome = reference.apply(number + 1, 1, commands.encode_append(1, batches))
            assert isinstance(outcome, AppendOutcome)
            expected |= {(number, i): r for i, r in enumerate(outcome.results)}
            leader.append(number, batches, ask=rng.random() < 0.8)
            while leader.under_way and rng.random() < 0.4:
                leader.apply()
        while leader.under_way:
            leader.apply()
        with promise("what is told before an entry is what the entry would have told"):
            assert leader.results == expected, seed
            assert leader.partition.high_watermark == reference.high_watermark, seed
        assert not leader.foresight._under_way, seed
        assert not leader.foresight._next, seed


async def test_p14_what_is_told_before_an_entry_is_what_the_entry_would_have_told() -> None:
    await holds_and_mutant_fails(any_batches, Foresight, "appends.ForeseesFromWhatItDidNotAsk")


@pytest.mark.parametrize("applied_at_once", [True, False])
def test_p14_batches_out_of_order_do_not_crowd_a_partition(applied_at_once: bool) -> None:
    leader = Leader(Foresight)
    leader.append(0, [make(5, 0, 1)], ask=True)
    if applied_at_once:
        leader.apply()
    for number in range(1, 70_000):
        leader.append(number, [make(5, 999, 1), make(6, number, 1)], ask=True)
    while leader.under_way:
        leader.apply()
    refused = leader.results[69_999, 0]
    assert isinstance(refused, Refused)
    assert (refused.reason, dict(refused.facts)["expected"]) == ("OUT_OF_ORDER_SEQUENCE", "1")
    assert not leader.partition.offsets.is_crowded
    assert leader.partition.high_watermark == 1
    assert leader.entries == 1
