"""Random logs: the partition against a naive model, replicas against one another, snapshots against replay."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stele.datanode import commands
from stele.datanode.batch_reader import BatchReader, log_floor
from stele.datanode.commands import (
    Ack,
    Appended,
    AppendOutcome,
    CreateCursor,
    DeleteCursor,
    FenceOwner,
    Position,
    Refused,
    ResetCursor,
    Start,
    Trim,
    TrimOutcome,
)
from stele.datanode.partition import PartitionState
from stele.services import batch
from stele.services.raft.storage import NO_OP, REGULAR, Entry, Members, Snapshot
from tests.unit.datanode.entries import make_batch

epochs = st.sampled_from([1, 1, 1, 1, 2, 3])
names = st.sampled_from(["a", "b", "c", "d"])
offsets = st.integers(0, 60)
positions = st.builds(Position, st.sampled_from([Start.EARLIEST, Start.LATEST, Start.OFFSET]), offsets)
resets = st.one_of(positions, st.builds(Position, st.just(Start.TIMESTAMP), st.integers(0, 9_000)))
batches = st.builds(
    make_batch,
    count=st.integers(1, 4),
    producer_id=st.integers(0, 4),
    sequence=st.builds(
        lambda epoch, count: epoch * batch.EPOCH_SEQUENCES + count, st.sampled_from([0, 0, 1, 2]), st.integers(0, 8)
    ),
    timestamp_ms=st.integers(0, 9_000),
    size=st.sampled_from([1, 1, 300]),
)
appends = st.builds(commands.encode_append, epochs, st.lists(batches, min_size=1, max_size=4))
ranges = st.lists(st.tuples(offsets, offsets).map(sorted).map(tuple), min_size=1, max_size=4).map(tuple)
small = st.one_of(
    st.builds(FenceOwner, epochs),
    st.builds(CreateCursor, epochs, names, positions),
    st.builds(Ack, epochs, names, st.integers(1, 4), ranges),
    st.builds(ResetCursor, epochs, names, resets),
    st.builds(DeleteCursor, epochs, names),
    st.builds(Trim, offsets),
).map(commands.encode)
payloads = st.one_of(appends, appends, appends, small, small, st.binary(max_size=60))
logs = st.lists(st.one_of(payloads, payloads, payloads, st.none()), max_size=60)  # None: an entry that is no command


def fresh() -> PartitionState:
    return PartitionState(producers_max=3, subscriptions_max=3, ranges_max=4)


def replay(partition: PartitionState, log: list[bytes | None], start: int = 1) -> list[object]:
    outcomes = []
    for index, payload in enumerate(log[start - 1 :], start):
        if payload is not None:
            outcomes.append(partition.apply(index, 1, payload))
            partition.validate()
    return outcomes


@given(logs)
def test_replicas_agree(log):
    one, other = fresh(), fresh()
    assert replay(one, log) == replay(other, log)
    assert one.encode_snapshot() == other.encode_snapshot()


@given(logs, st.integers(1, 60))
def test_a_replica_from_a_snapshot_goes_on_like_the_one_that_replayed_all(log, cut):
    cut = min(cut, len(log) + 1)
    whole, part = fresh(), fresh()
    replay(part, log[: cut - 1])
    snapshot = part.encode_snapshot()
    restored = fresh()
    replay(restored, log[:3])
    restored.restore(snapshot)
    assert restored.encode_snapshot() == snapshot
    outcomes = replay(whole, log)
    tail = replay(restored, log, cut)
    assert tail == outcomes[len(outcomes) - len(tail) :]
    assert restored.encode_snapshot() == whole.encode_snapshot()


def entries_of(log: list[bytes | None]) -> Callable[[int, int, int], list[Entry]]:
    """A log that gives at least one entry and stops after ``bytes_max``, as the journal does."""

    def read(first: int, last: int, bytes_max: int) -> list[Entry]:
        found: list[Entry] = []
        for index in range(first, last + 1):
            payload = log[index - 1]
            found.append(Entry(index, 1, NO_OP if payload is None else REGULAR, payload or b""))
            if sum(len(e.payload) for e in found) >= min(bytes_max, 600):
                break
        return found

    return read


def stored_in(log: list[bytes | None]) -> list[tuple[int, bytes]]:
    """What a partition that kept every batch in a list would hold."""
    partition, held = fresh(), []
    for index, payload in enumerate(log, 1):
        if payload is None:
            continue
        outcome = partition.apply(index, 1, payload)
        if isinstance(outcome, AppendOutcome):
            at = commands.APPEND_HEAD_BYTES
            for result in outcome.results:
                end = at + int.from_bytes(payload[at + 4 : at + 8], "big")
                if isinstance(result, Appended) and not result.duplicate:
                    held.append((result.base_offset, payload[at:end]))
                at = end
    return held


@settings(max_examples=200)
@given(logs, st.lists(st.tuples(offsets, st.sampled_from([0, 1, 100, 400, 10_000])), min_size=1, max_size=6))
def test_every_stored_batch_is_read_at_its_offset(log, reads):
    held = stored_in(log)
    partition = fresh()
    replay(partition, log)
    end = 0
    for base_offset, stored in held:
        assert base_offset == end
        end += batch.read_header(stored).record_count
    assert partition.high_watermark == end
    reader = BatchReader(partition, entries_of(log))
    for offset, bytes_max in [*reads, (partition.log_start, 10_000)]:
        found = [(s.base_offset, s.batch) for s in reader.read(offset, bytes_max)]
        wanted = [(o, b) for o, b in held if o + batch.read_header(b).record_count > offset >= partition.log_start]
        assert found == wanted[: len(found)]
        assert bool(found) == bool(wanted)
        size = sum(len(b) for _, b in found)
        assert len(found) <= 1 or size <= bytes_max
        if len(found) < len(wanted):
            assert size + len(wanted[len(found)][1]) > bytes_max


@settings(max_examples=300)
@given(logs, st.lists(st.integers(1, 60), min_size=1, max_size=4), st.data())
def test_what_is_kept_is_read_from_a_log_that_was_shortened(log, taken_after, data):
    """A replica that was given a snapshot, or was started from one, over a log that begins wherever its oldest snapshot allows."""
    snapshots, states = [], []
    partition, held = fresh(), stored_in(log)
    for index, payload in enumerate(log, 1):
        if payload is not None:
            partition.apply(index, 1, payload)
        if index in taken_after:
            snapshots.append(Snapshot(index, 1, Members((1,)), partition.mark, 0, 0, 0))
            states.append((index, partition.encode_snapshot()))
    assume(snapshots)
    oldest = data.draw(st.integers(0, len(snapshots) - 1), "oldest snapshot")
    first_index = data.draw(st.integers(1, snapshots[oldest].index + 1), "first index")
    from_snapshot = data.draw(st.integers(oldest, len(snapshots) - 1), "restored from")
    left = snapshots[oldest:]
    restored = fresh()
    at, state = states[from_snapshot]
    restored.restore(state)
    whole = entries_of(log)

    def shortened(first: int, last: int, bytes_max: int) -> list[Entry]:
        assert first >= first_index, f"entry {first} is asked for; the log begins at {first_index}"
        return whole(first, last, bytes_max)

    reader = BatchReader(restored, shortened, lambda: log_floor(first_index, left, restored.log_start))
    while True:
        start = reader.log_start
        assert restored.log_start <= start <= max(restored.log_start, left[0].mark)
        for offset in range(start, restored.high_watermark + 1):
            found = [(s.base_offset, s.batch) for s in reader.read(offset, 100)]
            wanted = [
                (o, b) for o, b in held if restored.high_watermark > o > offset - batch.read_header(b).record_count
            ]
            assert found == wanted[: len(found)]
            assert bool(found) == bool(wanted)
        if start:
            assert reader.read(start - 1, 100) == []
        if at == len(log):
            break
        at += 1
        if (payload := log[at - 1]) is not None:
            restored.apply(at, 1, payload)


@given(logs, st.sampled_from([1, 100, 500]))
def test_reading_on_gives_everything_once(log, bytes_max):
    partition, offset, read = fresh(), 0, []
    reader = BatchReader(partition, entries_of(log))
    for index, payload in enumerate(log, 1):
        if payload is not None:
            partition.apply(index, 1, payload)
        while found := reader.read(offset, bytes_max):
            read += [(s.base_offset, s.batch) for s in found]
            offset = found[-1].base_offset + batch.read_header(found[-1].batch).record_count
    assert read == stored_in(log)


@given(logs)
def test_a_cursor_never_owes_what_is_gone_and_forgets_no_acknowledgement_of_what_is_kept(log):
    """Against a set of offsets per cursor: the same commands, and a trim only takes away what can no longer be read."""
    partition = fresh()
    owed: dict[str, tuple[int, set[int]]] = {}  # subscription → generation, kept offsets not acknowledged
    for index, payload in enumerate(log, 1):
        if payload is None:
            continue
        before = {name: (c.ack_floor, c.generation, c.ranges) for name, c in partition.cursors.items()}
        start, end = partition.log_start, partition.high_watermark
        outcome = partition.apply(index, 1, payload)
        partition.validate()
        assert partition.log_start >= start
        if isinstance(outcome, TrimOutcome):
            gone = range(start, partition.log_start)
            assert outcome.unacked == sum(len(offsets_owed & set(gone)) for _, offsets_owed in owed.values())
            assert {n: c.generation for n, c in partition.cursors.items()} == {n: g for n, (_, g, _) in before.items()}
            assert partition.high_watermark == end
        known = dict(owed)
        owed = {}
        for name, cursor in partition.cursors.items():
            kept = range(partition.log_start, partition.high_watermark)
            owed[name] = (cursor.generation, {o for o in kept if not cursor.is_acked(o)})
            if isinstance(outcome, TrimOutcome):
                assert owed[name][1] == {o for o in known[name][1] if o >= partition.log_start}


@given(logs)
def test_a_sequence_is_stored_once_and_without_gaps(log):
    """Per producer, the stored sequences are 0, 1, 2, ... unless it began an epoch in between, or was forgotten and began again."""
    expected: dict[int, int] = {}
    for _, stored in stored_in(log):
        header = batch.read_header(stored)
        if header.producer_id:
            begins = header.base_sequence % batch.EPOCH_SEQUENCES == 0
            assert begins or header.base_sequence == expected.get(header.producer_id, 0)
            expected[header.producer_id] = header.last_sequence + 1


@given(logs)
def test_r5_10_nothing_is_stored_below_the_highest_epoch(log):
    partition, highest = fresh(), 0
    for index, payload in enumerate(log, 1):
        if payload is None:
            continue
        outcome = partition.apply(index, 1, payload)
        assert partition.owner_epoch >= highest
        if not isinstance(outcome, Refused | TrimOutcome):
            epoch = int.from_bytes(payload[1:9], "big")
            assert epoch >= highest
            highest = epoch
        highest = max(highest, partition.owner_epoch)
