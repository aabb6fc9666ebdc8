"""Records and their JSON form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from stele.services.coordination import records
from stele.services.coordination.founding import joined
from stele.services.coordination.kazoo_client import first_failure, translate
from stele.services.coordination.records import (
    BuriedRecord,
    CounterRecord,
    Incarnation,
    MemberRecord,
    NameRecord,
    PartitionRecord,
    decode,
    encode,
    needs,
)
from stele.services.errors import (
    CoordinationUnknown,
    FormatUnknown,
    NameTaken,
    RecordExists,
    RecordMissing,
    RecordUnreadable,
    VersionConflict,
)
from tests.support.both_ways import holds_and_mutant_fails, promise

EXAMPLES = [
    records.ClusterRecord(id="c", created_ms=1),
    records.EpochRecord(epoch=3),
    records.LeaderRecord(name="ns1", endpoint="a:1", epoch=3),
    NameRecord(endpoint="a:1", session=-(2**62), owner=Incarnation(instance="i", machine="m", pid=1, pid_started=2)),
    MemberRecord(endpoint="a:1", raft_endpoint="a:2", store_id=4, state="loading", version="0.1.0", started_ms=5),
    records.StoreRecord(name="dn1", state="up", uuid="u", registered_ms=1),
    BuriedRecord(intervals=((1, 4), (9, 9))),
    records.NamespaceRecord(bundles=4, replication=3),
    records.TopicRecord(id=1, partitions=4, replication=3, state="ready", created_ms=1),
    PartitionRecord(topic="demo/orders", index=0, replicas=(1, 2, 3), version=2),
    records.BundleRecord(broker="br1", epoch=9),
    CounterRecord(next=17),
]


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda r: type(r).__name__)
def test_a_record_reads_back_as_it_was_written(record: records.ZnodeRecord) -> None:
    assert decode(encode(record), type(record)) == record
    assert json.loads(encode(record))["format"] == 1


def test_a_record_is_one_line_that_a_person_can_read() -> None:
    record = NameRecord(endpoint="ä:1", session=-7, owner=Incarnation(instance="i", pid=2))
    assert encode(record).decode() == (
        '{"format": 1, "endpoint": "ä:1", "session": -7, "session_timeout_ms": 0, '
        '"owner": {"instance": "i", "machine": "", "pid": 2, "pid_started": 0, "identity": ""}}'
    )
    assert encode(BuriedRecord(intervals=((1, 4), (9, 9)))) == b'{"format": 1, "intervals": [[1, 4], [9, 9]]}'


async def test_what_a_process_does_not_know_outlives_its_writes() -> None:
    async def scenario(reading: Callable[..., Any]) -> None:
        for record in EXAMPLES:
            if isinstance(record, records.Rewritten):
                written = json.loads(encode(record)) | {"colour": {"of": ["red", 1]}, "since": 7}
                read = reading(json.dumps(written).encode(), type(record))
                assert read == record, "what is not known changes no comparison"
                with promise("what a process does not know outlives its writes"):
                    assert json.loads(encode(read)) == written
                    name = next(n for n in ("state", "bundles", "version", "epoch", "created_ms") if hasattr(record, n))
                    changed = replace(read, **{name: "x" if name == "state" else 99})
                    assert json.loads(encode(changed)) == written | json.loads(encode(changed))
                    assert json.loads(encode(changed))["colour"] == {"of": ["red", 1]}

    await holds_and_mutant_fails(scenario, decode, "formats.forgets_the_unknown")


@pytest.mark.parametrize(
    ("record", "needed"),
    [
        (records.TopicRecord(id=1, partitions=4, replication=3, state="ready", created_ms=1), (1, "")),
        (
            records.TopicRecord(id=1, partitions=4, replication=3, state="ready", created_ms=1, growing_to=8),
            (2, "growing_to"),
        ),
        (
            records.TopicRecord(id=1, partitions=4, replication=3, state="ready", created_ms=1, racks="require"),
            (2, "racks"),
        ),
        (records.NamespaceRecord(bundles=4, replication=3, splits=(1,)), (2, "splits")),
        (PartitionRecord(topic="demo/orders", index=0, replicas=(1, 2, 3), target=(1, 2, 4)), (1, "")),
    ],
)
def test_a_record_says_which_format_it_takes(record: records.ZnodeRecord, needed: tuple[int, str]) -> None:
    assert needs(record) == needed


def test_nobody_joins_a_cluster_of_a_higher_format_than_it_knows() -> None:
    cluster = records.ClusterRecord(id="c", created_ms=1)
    assert joined(b'{"format": 1, "id": "c", "created_ms": 1}', 1) == cluster, "as versions before wrote it"
    assert joined(encode(replace(cluster, format=2)), 2).format == 2
    with pytest.raises(FormatUnknown, match="the cluster is at record format 2, and this version knows 1"):
        joined(encode(replace(cluster, format=2)), 1)
    with pytest.raises(FormatUnknown, match="format 2"):
        joined(encode(replace(cluster, finalizing=2)), 1)
    with pytest.raises(FormatUnknown, match="format 9"):
        joined(b'{"format": 9, "id": 17}', 2)
    with pytest.raises(RecordUnreadable):
        joined(b"{}", 2)


def test_versions_before_record_formats_refuse_a_cluster_that_has_risen() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class AsBefore:
        id: str
        created_ms: int

    with pytest.raises(RecordUnreadable, match="format 2 is not known to this version"):
        decode(encode(records.ClusterRecord(id="c", created_ms=1, format=2)), AsBefore)
    assert decode(encode(records.ClusterRecord(id="c", created_ms=1, finalizing=2)), AsBefore) == AsBefore(
        id="c", created_ms=1
    )


def test_fields_of_other_versions_are_ignored_or_take_their_defaults() -> None:
    assert decode(b'{"format": 1, "next": 3, "colour": "red"}', CounterRecord) == CounterRecord(next=3)
    assert decode(b'{"endpoint": "a:1"}', MemberRecord) == MemberRecord(endpoint="a:1")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"3",
        b"{}",
        b'{"next": "3"}',
        b'{"next": true}',
        b'{"next": null}',
        b'{"next": 3.5}',
        b'{"next": 3} {}',
        b'{"format": "1", "next": 3}',
        b'{"next": 3, "note": "\xff"}',
        b'{"next": 3, "deep": ' + b"[" * 100_000,
        b'{"format": 2, "next": 3}',
    ],
)
def test_whatever_is_no_such_record_is_refused(value: bytes) -> None:
    with pytest.raises(RecordUnreadable) as refused:
        decode(value, CounterRecord, "stores/alloc")
    assert refused.value.facts["path"] == "stores/alloc"


@pytest.mark.parametrize(
    "value", [b'{"topic": "t", "index": 0, "replicas": [1, "2"]}', b'{"topic": "t", "index": 0, "replicas": 3}']
)
def test_nested_values_are_checked(value: bytes) -> None:
    with pytest.raises(RecordUnreadable):
        decode(value, PartitionRecord)


@dataclass(frozen=True)
class Renewed:
    FORMAT: ClassVar[int] = 2
    next: int
    note: str | None = None


def test_a_record_may_have_a_later_format() -> None:
    assert json.loads(encode(Renewed(next=1))) == {"format": 2, "next": 1, "note": None}
    assert decode(b'{"format": 1, "next": 1}', Renewed) == Renewed(next=1)
    assert decode(encode(Renewed(next=1, note="n")), Renewed) == Renewed(next=1, note="n")


def test_only_zookeepers_own_answers_are_definite() -> None:
    from kazoo import exceptions as kazoo

    assert isinstance(translate(kazoo.NoNodeError(), "get", "p"), RecordMissing)
    assert isinstance(translate(kazoo.NodeExistsError(), "create", "p"), RecordExists)
    assert isinstance(translate(kazoo.BadVersionError(), "set", "p"), VersionConflict)
    assert isinstance(translate(kazoo.NotEmptyError(), "delete", "p"), VersionConflict)
    taken = NameTaken("taken")
    assert translate(taken, "set", "p") is taken
    for silence in (
        kazoo.ConnectionLoss(),
        kazoo.SessionExpiredError(),
        kazoo.ConnectionClosedError(),
        kazoo.OperationTimeoutError(),
        kazoo.RuntimeInconsistency(),
        OSError("socket"),
        RuntimeError("xids do not match"),
    ):
        assert isinstance(translate(silence, "set", "p"), CoordinationUnknown), silence


def test_the_operation_that_failed_is_found_among_those_rolled_back() -> None:
    from kazoo import exceptions as kazoo

    conflict = kazoo.BadVersionError()
    assert first_failure(["/p", True]) is None
    assert first_failure([kazoo.RolledBackError(), conflict, kazoo.RuntimeInconsistency()]) == (1, conflict)
    assert first_failure([conflict, kazoo.RuntimeInconsistency()]) == (0, conflict)
