"""A topic whose records are lost is recorded again as its stores hold it, or not at all (fault P3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from stele.nameserver.adoption import AdoptedPartition, Adoption, adopt
from stele.nameserver.catalog import Catalog, PartitionEntry, StoreEntry, StoreState, TopicEntry, TopicState
from stele.nameserver.reports import ReplicaState, Reports, StoreReport, disconnected
from stele.nameserver.strays import set_apart
from stele.services.errors import InvalidArgument, NotReady, SteleError, TopicExists, TopicNotFound
from stele.services.high_water import HighWater
from stele.services.intervals import IntervalSet
from stele.services.pb.datanode_pb2 import ReplicaStatus
from stele.services.topics import Retention
from tests.unit.nameserver.world import replica, report

KEPT = Retention(age_ms=1000)
CATALOG = Catalog(
    stores={s: StoreEntry(s, f"dn{s}", StoreState.UP, f"u{s}") for s in (1, 2, 3, 4)},
    counters=HighWater(topics=9, groups=20, stores=5),
)


def held(
    group: int, index: int, leader: int = 1, voters: tuple[int, ...] = (1, 2, 3), **more: Any
) -> dict[int, ReplicaStatus]:
    """By the store that holds it."""
    more.setdefault("topic_id", 5)
    return {
        s: replica(
            group,
            state=ReplicaState.LEADER if s == leader else ReplicaState.FOLLOWER,
            leader_store_id=leader,
            term=3,
            partition=index,
            voters=voters,
            retention=KEPT,
            **more,
        )
        for s in voters
    }


def reported(*groups: Mapping[int, ReplicaStatus], catalog: Catalog = CATALOG) -> Reports:
    stores = sorted({s for group in groups for s in group})
    return set_apart(catalog, {s: report(s, *(g[s] for g in groups if s in g)) for s in stores})


WHOLE = (held(7, 0), held(8, 1, leader=2, voters=(2, 3, 4)))


def test_a_topic_is_recorded_as_its_leaders_say() -> None:
    assert adopt(CATALOG, reported(*WHOLE), "demo/t") == Adoption(
        "demo/t", 5, 2, 3, KEPT, (AdoptedPartition(7, 0, (1, 2, 3)), AdoptedPartition(8, 1, (2, 3, 4)))
    )


def test_nothing_is_made_of_what_is_no_orphan() -> None:
    for name in ("demo/u", "other/t"):
        with pytest.raises(TopicNotFound):
            adopt(CATALOG, reported(*WHOLE), name)
    away = {s: disconnected(r) for s, r in reported(*WHOLE).items()}
    with pytest.raises(TopicNotFound):
        adopt(CATALOG, away, "demo/t")
    recorded = replace(
        CATALOG,
        topics={"demo/t": TopicEntry("demo/t", 5, 2, 3, TopicState.READY)},
        partitions={7: PartitionEntry(7, "demo/t", 0, (1, 2, 3)), 8: PartitionEntry(8, "demo/t", 1, (2, 3, 4))},
    )
    with pytest.raises(TopicNotFound):
        adopt(recorded, reported(*WHOLE, catalog=recorded), "demo/t")


def test_without_a_leaders_word_on_settled_members_nothing_is_adopted() -> None:
    unsettled = held(7, 0)
    unsettled[1].members_settled = False
    unled = held(7, 0, leader=9)
    for group in (unsettled, unled):
        with pytest.raises(NotReady, match="group 7 has no leader"):
            adopt(CATALOG, reported(group), "demo/t")


def test_of_two_that_say_they_lead_the_later_term_counts() -> None:
    former = held(7, 0, voters=(1, 2, 3))
    now = replica(7, state=ReplicaState.LEADER, leader_store_id=4, term=4, topic_id=5, voters=(2, 3, 4))
    reports: dict[int, StoreReport] = {**reported(former), 4: reported({4: now})[4]}
    assert adopt(CATALOG, reports, "demo/t").adopted == (AdoptedPartition(7, 0, (2, 3, 4)),)


def test_what_is_missing_in_between_is_waited_for_unless_an_operator_says_that_it_is_lost() -> None:
    gap = reported(held(7, 0), held(9, 2))
    with pytest.raises(NotReady, match=r"no store reports 1 partition of demo/t \(1\).* had 3 partitions"):
        adopt(CATALOG, gap, "demo/t")
    assert adopt(CATALOG, gap, "demo/t", partitions=3).missing == (1,)
    more = adopt(CATALOG, gap, "demo/t", partitions=5)
    assert (more.partitions, more.missing) == (5, (1, 3, 4))
    with pytest.raises(NotReady):  # fewer than there are is a slip
        adopt(CATALOG, gap, "demo/t", partitions=2)


def test_a_partition_that_comes_later_joins_its_topic() -> None:
    known = replace(
        CATALOG,
        topics={"demo/t": TopicEntry("demo/t", 5, 1, 2, TopicState.READY)},
        partitions={7: PartitionEntry(7, "demo/t", 0, (1, 2, 3))},
    )
    found = adopt(known, reported(*WHOLE, catalog=known), "demo/t")
    assert found == Adoption("demo/t", 5, 2, 2, Retention(), (AdoptedPartition(8, 1, (2, 3, 4)),))


def test_partitions_whose_topic_alone_lost_its_record_are_adopted() -> None:
    known = replace(CATALOG, partitions={7: PartitionEntry(7, "demo/t", 0, (1, 2, 3))})
    assert [p.group for p in adopt(known, reported(*WHOLE, catalog=known), "demo/t").adopted] == [7, 8]


DELETED = replace(CATALOG, deleted_topics=IntervalSet().add(5))
REPLACED = replace(CATALOG, topics={"demo/t": TopicEntry("demo/t", 6, 1, 3, TopicState.READY)})
RENAMED = replace(CATALOG, topics={"demo/u": TopicEntry("demo/u", 5, 1, 3, TopicState.READY)})
TAKEN = replace(
    CATALOG,
    topics={"demo/t": TopicEntry("demo/t", 5, 1, 3, TopicState.READY)},
    partitions={12: PartitionEntry(12, "demo/t", 0, (1, 2, 3))},
)


@pytest.mark.parametrize(
    ("catalog", "groups", "error", "says"),
    [
        (DELETED, WHOLE, InvalidArgument, "with the id 5 was deleted"),
        (REPLACED, WHOLE, TopicExists, "another topic demo/t by now, with the id 6"),
        (RENAMED, WHOLE, InvalidArgument, "the id 5 is that of demo/u"),
        (TAKEN, WHOLE, InvalidArgument, "groups 12 and 7 both say that they are partition 0"),
        (CATALOG, (held(7, 0), held(8, 0)), InvalidArgument, "groups 7 and 8 both say"),
        (CATALOG, (held(7, 0), held(8, 0, topic_id=4)), InvalidArgument, "with the ids 4, 5: say which"),
        (CATALOG, (held(7, 0, topic_id=0),), InvalidArgument, "before topics had ids"),
    ],
)
def test_what_is_not_certain_is_refused(
    catalog: Catalog, groups: tuple[dict[int, ReplicaStatus], ...], error: type[SteleError], says: str
) -> None:
    with pytest.raises(error, match=says):
        adopt(catalog, reported(*groups, catalog=catalog), "demo/t")


def test_of_several_the_one_that_is_named_is_adopted() -> None:
    reports = reported(held(7, 0), held(8, 0, topic_id=4))
    assert [p.group for p in adopt(CATALOG, reports, "demo/t", topic_id=4).adopted] == [8]


def test_a_store_that_was_removed_is_not_named_again() -> None:
    gone = replace(CATALOG, buried=IntervalSet().add(3))
    assert adopt(gone, reported(held(7, 0)), "demo/t").adopted == (AdoptedPartition(7, 0, (1, 2)),)
