"""The batch format: what goes in comes out, and no damaged byte passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.services import batch
from stele.services.batch import BatchRecord
from stele.services.errors import BatchCorrupt
from tests.support.both_ways import holds_and_mutant_fails, promise

TIMESTAMPS = st.integers(0, 2**32 - 1).map(lambda delta: 1_700_000_000_000 + delta)
RECORDS = st.lists(
    st.builds(
        batch.BatchRecord,
        value=st.binary(max_size=200),
        key=st.none() | st.binary(max_size=40),
        headers=st.dictionaries(st.text(max_size=10), st.binary(max_size=20), max_size=3),
        timestamp_ms=TIMESTAMPS,
    ),
    min_size=1,
    max_size=8,
)
U64 = st.integers(0, 2**64 - 1)


@given(RECORDS, U64, U64)
def test_round_trip(records: list[batch.BatchRecord], producer_id: int, base_sequence: int) -> None:
    encoded = batch.encode(records, producer_id, base_sequence)
    header = batch.read_header(encoded)
    assert (header.length, header.record_count) == (len(encoded), len(records))
    assert (header.producer_id, header.base_sequence) == (producer_id, base_sequence)
    assert header.timestamp_ms == min(r.timestamp_ms for r in records)
    assert header.last_sequence == base_sequence + len(records) - 1
    assert batch.decode(encoded) == records
    assert batch.read_header(memoryview(encoded)) == header


@given(RECORDS, st.data())
def test_any_damaged_byte_is_refused(records: list[batch.BatchRecord], data: st.DataObject) -> None:
    encoded = bytearray(batch.encode(records, 7, 3))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BatchCorrupt):
        batch.read_header(bytes(encoded))
    with pytest.raises(BatchCorrupt):
        batch.decode(bytes(encoded))


@given(RECORDS, st.data())
def test_any_cut_or_longer_batch_is_refused(records: list[batch.BatchRecord], data: st.DataObject) -> None:
    encoded = batch.encode(records)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\0", encoded + encoded):
        with pytest.raises(BatchCorrupt):
            batch.read_header(wrong)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(junk: bytes) -> None:
    with pytest.raises(BatchCorrupt):
        batch.decode(junk)


def test_an_empty_batch_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one"):
        batch.encode([])


@given(RECORDS, RECORDS)
def test_batches_back_to_back_are_told_apart_by_their_length(
    first: list[batch.BatchRecord], second: list[batch.BatchRecord]
) -> None:
    joined = batch.encode(first) + batch.encode(second)
    length = int.from_bytes(joined[4:8], "big")
    assert batch.decode(joined[:length]) == first
    assert batch.decode(joined[length:]) == second


@given(
    st.lists(
        st.builds(
            BatchRecord,
            st.binary(max_size=20),
            st.none() | st.binary(max_size=5),
            st.dictionaries(st.text(max_size=3), st.binary(max_size=3), max_size=2),
            st.integers(0, 1000),
        ),
        min_size=1,
        max_size=5,
    ),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
)
def test_p17_a_batch_is_taken_exactly_if_it_can_be_read(records, changes) -> None:
    encoded = bytearray(batch.encode(records))
    for at, value in changes:
        if at < len(encoded) - batch.HEADER_BYTES:
            encoded[batch.HEADER_BYTES + at] = value
    encoded[8:12] = batch.crc32c(bytes(encoded[12:])).to_bytes(4, "big")
    whole = bytes(encoded)

    def outcome(read) -> str:
        try:
            read(whole)
        except BatchCorrupt:
            return "refused"
        return "taken"

    assert outcome(batch.check) == outcome(batch.decode)


def test_a_time_that_no_calendar_can_show_is_refused() -> None:
    last = BatchRecord(b"x", timestamp_ms=batch.TIMESTAMP_MS_MAX)
    assert batch.check(batch.encode([last])).timestamp_ms == batch.TIMESTAMP_MS_MAX
    for records in (
        [BatchRecord(b"x", timestamp_ms=batch.TIMESTAMP_MS_MAX + 1)],
        [last, BatchRecord(b"x", timestamp_ms=batch.TIMESTAMP_MS_MAX + 1)],
        [BatchRecord(b"x", timestamp_ms=(1 << 64) - 1)],
    ):
        with pytest.raises(BatchCorrupt, match="year 9999"):
            batch.check(batch.encode(records))


async def test_p17_records_that_do_not_fit_are_refused_although_header_and_checksum_are_good() -> None:
    async def scenario(check: Callable[[bytes], object]) -> None:
        good = batch.encode([BatchRecord(b"a"), BatchRecord(b"b", headers={"h": b"v"})])
        at = batch.HEADER_BYTES
        for wrong in (
            good[:at] + b"\xff" * (len(good) - at),
            good[: at + 8] + (7).to_bytes(4, "big") + good[at + 12 :],
            good + b"x",
        ):
            length = good[:4] + len(wrong).to_bytes(4, "big")
            whole = length + batch.crc32c(wrong[12:]).to_bytes(4, "big") + wrong[12:]
            assert batch.read_header(whole).record_count == 2
            with promise("nothing is stored that no consumer can read"), pytest.raises(BatchCorrupt):
                check(whole)

    await holds_and_mutant_fails(scenario, batch.check, "batches.looks_at_the_header_alone")
