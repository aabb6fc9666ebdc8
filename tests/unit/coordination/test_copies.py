"""Copies of a cluster's records: what they hold, what is found wrong with them, and what an import makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stele.services.coordination.copy_check import faults
from stele.services.coordination.copy_document import (
    COPIED,
    MetadataCopy,
    from_json,
    kind_of,
    record_value,
    to_json,
    typed,
)
from stele.services.coordination.copy_merge import EPOCH_LEAP, is_empty, lost, merged
from stele.services.coordination.records import (
    BundleRecord,
    BuriedRecord,
    ClusterRecord,
    CounterRecord,
    DeletedTopicsRecord,
    EpochRecord,
    NamespaceRecord,
    PartitionRecord,
    StoreRecord,
)
from stele.services.coordination.schema import TREE, Lifetime
from stele.services.errors import InvalidArgument
from tests.unit.coordination.copies import PARTITION, TOPIC, copy_with

COPY = copy_with()
GONE = "gone"


# --- the document -------------------------------------------------------------------------------------------------------


def test_a_copy_is_read_as_it_was_written_with_what_this_version_does_not_know() -> None:
    records = {**COPY.records, "topics/demo/t": {**(COPY.records["topics/demo/t"] or {}), "colour": "blau"}}
    copy = replace(COPY, records=records, taken_ms=5, software="9")
    assert from_json(to_json(copy), "f") == copy
    assert copy.cluster_id == "c1"
    assert (copy.high_water.epoch, copy.high_water.topics, copy.high_water.groups, copy.high_water.stores) == (
        5,
        2,
        3,
        4,
    )


def test_everything_that_stays_without_its_writer_is_copied_but_names() -> None:
    """A kind of record that is added later is in copies, too."""
    left = {kind.path for kind in TREE if kind.lifetime is Lifetime.PERSISTENT} - {kind.path for kind in COPIED}
    assert left == {"names/<name>"}
    for path in ("stores/alloc", "stores/buried", "stores/3", "topics/alloc", "topics/demo", "topics/demo/t"):
        kind = kind_of(path)
        assert kind is not None, path
        assert ("<" in kind.path) == (path.rpartition("/")[2] not in ("alloc", "buried")), path
    assert kind_of("names/dn1") is None
    assert kind_of("topics/a/b/c") is None


WHOLE = to_json(COPY)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no copy of a cluster's records, or not all of one"),
        (WHOLE[:-20], "not all of one"),
        ("[" * 100_000, "is no copy"),
        ("[]", "its kind is not"),
        ("{}", "its kind is not"),
        (WHOLE.replace('"format": 1,\n "kind"', '"format": 2,\n "kind"'), "has the format 2; this version reads 1"),
        (WHOLE.replace('"records"', '"other"'), "has no records"),
        (WHOLE.replace('"taken_ms": 0', '"taken_ms": "x"'), "in no readable way"),
        (WHOLE.replace('"stores/1"', '"names/dn1"'), "none of a cluster: 'names/dn1'"),
        (WHOLE.replace('"topics/demo": null', '"topics/demo": 7'), "none of a cluster: 'topics/demo'"),
    ],
)
def test_what_is_no_copy_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as refused:
        from_json(text, "stele.json")
    assert refused.value.message.startswith("stele.json ")
    assert "\n" not in refused.value.message


# --- what is wrong ------------------------------------------------------------------------------------------------------


def test_a_cluster_in_which_nothing_is_wrong() -> None:
    assert faults(COPY) == []


GROWING = {
    "topics__demo__t": replace(TOPIC, growing_to=3),
    "groups__alloc": CounterRecord(next=4),
    "partitions__3": replace(PARTITION, index=2),
}
SPLIT = {
    "namespaces__demo": NamespaceRecord(bundles=4, replication=3, splits=(0x20000000,)),
    "bundles__demo__00000000-3fffffff": BundleRecord(broker="", epoch=7),
    "bundles__demo__00000000-1fffffff": BundleRecord(broker="br1", epoch=8),
}


@pytest.mark.parametrize(
    "changes",
    [
        {"topics__demo__t": replace(TOPIC, state="creating"), "partitions__2": GONE},  # it goes on
        {"topics__demo__t": replace(TOPIC, state="deleting"), "partitions__1": GONE},
        {"bundles__demo__00000000-3fffffff": GONE},  # never assigned
        SPLIT,
        GROWING,
        {"partitions__1": replace(PARTITION, replicas=(1, 2, 3), target=(1, 2), leaving=(7,))},
        {"stores__buried": BuriedRecord(intervals=((1, 1),)), "stores__1": GONE, **{
            f"partitions__{g}": replace(PARTITION, index=g - 1, replicas=(2, 3), leaving=(1,)) for g in (1, 2)}},
        {"deleted__topics": DeletedTopicsRecord(intervals=((0, 0),))},
    ],
)  # fmt: skip
def test_what_an_interrupted_change_leaves_is_nothing_wrong(changes: dict[str, Any]) -> None:
    assert faults(copy_with(**changes)) == []


STORE = StoreRecord(name="dn1", state="up", uuid="u1", registered_ms=1)


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"cluster": GONE}, "cluster", "is missing"),
        ({"epoch": GONE}, "epoch", "is missing"),
        ({"stores__alloc": CounterRecord(next=3)}, "stores/alloc", "the next id is 3, and 3 was given out"),
        ({"groups__alloc": GONE}, "groups/alloc", "the next id is 0, and 2 was given out"),
        ({"deleted__topics": DeletedTopicsRecord(intervals=((2, 5),))}, "topics/alloc", "the next id is 2, and 5"),
        ({"stores__buried": BuriedRecord(intervals=((9, 9),))}, "stores/alloc", "the next id is 4, and 9"),
        ({"deleted__topics": DeletedTopicsRecord(intervals=((5, 2),))}, "deleted/topics", "ends at or after"),
        ({"deleted__topics": DeletedTopicsRecord(intervals=((1, 1),))}, "topics/demo/t", "its id 1 is recorded as del"),
        ({"stores__2": replace(STORE, uuid="u1")}, "stores/2", "is the directory u1 of store 1, too"),
        ({"stores__2": replace(STORE, uuid="x", state="asleep")}, "stores/2", "has the state 'asleep'"),
        ({"stores__buried": BuriedRecord(intervals=((2, 2),))}, "stores/2", "has a record and is buried"),
        ({"stores__buried": BuriedRecord(intervals=((2, 2),)), "stores__2": GONE}, "partitions/1", "store 2, which was"),
        ({"stores__2": GONE}, "partitions/1", "names store 2, of which there is no record"),
        ({"stores__2": replace(STORE, uuid="x", state="tombstone")}, "partitions/1", "names store 2, which was removed"),
        ({"partitions__1": replace(PARTITION, target=(1, 9), replicas=(1, 2, 9))}, "partitions/1", "to move to store 9"),
        ({"partitions__1": replace(PARTITION, target=(1, 3), replicas=(1, 2))}, "partitions/1", "may hold nothing of it"),
        ({"partitions__1": replace(PARTITION, leaving=(3,))}, "partitions/1", "store 3 left it, and counts"),
        ({"partitions__1": replace(PARTITION, replicas=())}, "partitions/1", "names no store"),
        ({"partitions__1": replace(PARTITION, replicas=(1, 1))}, "partitions/1", "names store 1 twice"),
        ({"partitions__1": replace(PARTITION, topic="demo/u")}, "partitions/1", "there is no topic demo/u"),
        ({"partitions__1": replace(PARTITION, topic_id=99)}, "partitions/1", "is of the topic with the id 99"),
        ({"partitions__2": PARTITION}, "partitions/2", "is partition 0 of demo/t, and so is group 1"),
        ({"partitions__2": replace(PARTITION, index=2)}, "partitions/2", "is partition 2 of demo/t, which has 2"),
        ({"partitions__2": GONE}, "topics/demo/t", "has no record of 1 partition: 1"),
        ({"topics__demo__u": replace(TOPIC, partitions=0)}, "topics/demo/u", "has the id 1 of demo/t"),
        ({"topics__demo__t": replace(TOPIC, state="odd")}, "topics/demo/t", "has the state 'odd'"),
        ({"namespaces__demo": GONE}, "topics/demo/t", "there is no namespace demo"),
        ({"namespaces__demo": GONE}, "bundles/demo/00000000-3fffffff", "br1 owns it, and there is no namespace"),
        ({"bundles__demo__00000000-7fffffff": BundleRecord(broker="b", epoch=1)}, "bundles/demo/00000000-7fffffff", "over"),
        ({"bundles__demo__00000000-3fffffff": BundleRecord(broker="", epoch=-1)}, "bundles/demo/00000000-3fffffff", "-1"),
    ],
)  # fmt: skip
def test_what_contradicts_the_rest_is_named(changes: dict[str, Any], path: str, says: str) -> None:
    found = faults(copy_with(**changes))
    assert any(f.path == path and says in f.says for f in found), found


def test_a_record_that_cannot_be_read_is_named_and_nothing_is_concluded_from_its_absence() -> None:
    for path, ending in (
        ("topics/demo/t", "TopicRecord"),
        ("stores/2", "StoreRecord"),
        ("namespaces/demo", "NamespaceRecord"),
    ):
        broken = replace(COPY, records={**COPY.records, path: {"format": 1}})
        (found,) = faults(broken)
        assert found.path == path
        assert f"is no {ending}" in found.says


def test_where_nothing_is_recorded_that_is_said() -> None:
    assert [f.path for f in faults(MetadataCopy("c", {}))] == ["cluster"]


# --- what an import would lose, and leaves ------------------------------------------------------------------------------

OLDER = {"epoch": EpochRecord(epoch=4)}
MORE_TOPICS = {"topics__alloc": CounterRecord(next=3), "topics__demo__u": replace(TOPIC, id=2, partitions=0)}


@pytest.mark.parametrize(
    ("live", "says"),
    [
        (MORE_TOPICS, "topic ids have come to 3, in the copy to 2"),
        ({**OLDER, **MORE_TOPICS}, "topic ids have come to 3"),
        ({"groups__alloc": CounterRecord(next=9)}, "group ids have come to 9"),
        ({"stores__alloc": CounterRecord(next=9)}, "store ids have come to 9"),
        ({"topics__demo__u": replace(TOPIC, id=0)}, "topics/demo/u with the id 0 is not in the copy"),
        ({**OLDER, "deleted__topics": DeletedTopicsRecord(intervals=((1, 1),))}, "the topic with the id 1 was deleted"),
        ({**OLDER, "stores__buried": BuriedRecord(intervals=((2, 2),))}, "the store 2 was removed since"),
        ({"partitions__1": replace(PARTITION, version=5)}, "partitions/1 was changed since"),
        ({"topics__demo__t": replace(TOPIC, retention_ms=9)}, "topics/demo/t is not what it is in the copy"),
        ({"namespaces__other": NamespaceRecord(bundles=1, replication=1)}, "namespaces/other is not in the copy"),
        ({"stores__1": replace(STORE, state="offline")}, "stores/1 is not what it is in the copy"),
    ],
)
def test_what_is_newer_than_the_copy_is_named(live: dict[str, Any], says: str) -> None:
    assert any(says in line for line in lost(COPY, copy_with(**live))), lost(COPY, copy_with(**live))


@pytest.mark.parametrize(
    "live",
    [
        {},
        {"epoch": EpochRecord(epoch=99)},  # leaders that did nothing
        {"topics__demo__t": GONE, "partitions__1": GONE, "partitions__2": GONE, "topics__alloc": CounterRecord(next=1)},
        {**OLDER, "topics__demo__t": replace(TOPIC, retention_ms=9)},
        {**OLDER, "namespaces__other": NamespaceRecord(bundles=1, replication=1)},
        {"partitions__1": replace(PARTITION, version=3, replicas=(1, 2))},
        {"bundles__demo__00000000-3fffffff": BundleRecord(broker="br9", epoch=99)},
    ],
)
def test_what_is_older_is_not_missed(live: dict[str, Any]) -> None:
    assert lost(COPY, copy_with(**live)) == []


def test_a_topic_that_the_copy_knows_as_deleted_is_not_missed_and_does_not_stay() -> None:
    copy = copy_with(
        topics__demo__t=GONE,
        partitions__1=GONE,
        partitions__2=GONE,
        deleted__topics=DeletedTopicsRecord(intervals=((1, 1),)),
    )
    live = copy_with(**OLDER)
    assert lost(copy, live) == []
    assert "topics/demo/t" not in merged(copy, live)


def test_counters_and_epochs_never_go_back_and_what_was_deleted_stays_so() -> None:
    bundle = "bundles/demo/00000000-3fffffff"
    live = copy_with(
        **OLDER,
        stores__alloc=CounterRecord(next=9),
        stores__buried=BuriedRecord(intervals=((8, 8),)),
        deleted__topics=DeletedTopicsRecord(intervals=((7, 7),)),
        **{"bundles__demo__00000000-3fffffff": BundleRecord(broker="br9", epoch=99)},
    )
    copy = copy_with(stores__buried=BuriedRecord(intervals=((6, 6),)))
    after = replace(copy, records=merged(copy, live))
    assert after.get("stores/alloc", CounterRecord) == CounterRecord(next=9)
    assert after.get("stores/buried", BuriedRecord) == BuriedRecord(intervals=((6, 6), (8, 8)))
    assert after.get("deleted/topics", DeletedTopicsRecord) == DeletedTopicsRecord(intervals=((7, 7),))
    assert after.get(bundle, BundleRecord) == BundleRecord(broker="", epoch=99 + EPOCH_LEAP)
    assert after.get("bundles/demo/40000000-7fffffff", BundleRecord) == BundleRecord(broker="", epoch=7 + EPOCH_LEAP)
    assert after.cluster_id == "c1"
    assert "epoch" not in after.records


def test_the_record_format_never_goes_back() -> None:
    old, new = ClusterRecord(id="c1", created_ms=1), ClusterRecord(id="c1", created_ms=1, format=2, finalizing=2)
    for copy, live in ((old, new), (new, old), (new, new)):
        wanted = merged(copy_with(cluster=copy), copy_with(cluster=live))
        assert typed("cluster", wanted["cluster"] or {}, ClusterRecord) == replace(new, finalizing=0)
    assert merged(copy_with(cluster=old), MetadataCopy("c", {}))["cluster"] == record_value(old), "as it is in the copy"


def test_what_stores_had_left_when_the_copy_was_taken_is_not_deleted_by_its_word() -> None:
    """One of them may have come back since, and counts."""
    copy = copy_with(partitions__1=replace(PARTITION, replicas=(1, 2), leaving=(3,)))
    after = replace(copy, records=merged(copy, MetadataCopy("c", {}))).get("partitions/1", PartitionRecord)
    assert after == replace(PARTITION, replicas=(1, 2), leaving=())


def test_only_a_tree_in_which_nothing_was_done_is_empty() -> None:
    fresh = MetadataCopy("c", {p: COPY.records[p] for p in ("cluster", "epoch")})
    assert is_empty(fresh)
    assert is_empty(MetadataCopy("c", {}))
    for path in ("namespaces/demo", "stores/1", "topics/alloc"):
        assert not is_empty(replace(fresh, records={**fresh.records, path: COPY.records[path]})), path
    assert replace(fresh, records={**fresh.records, "cluster": None}).get("cluster", ClusterRecord) is None
