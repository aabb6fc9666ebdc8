"""The frame codec: what it makes it reads, and it takes nothing else for a frame."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stele.datanode.log import frames
from stele.services.raft.storage import Entry

SEED = 0x1234_5678
u64 = st.integers(0, 2**64 - 1)
an_entry = st.builds(Entry, u64, u64, st.integers(0, frames.KIND_MAX), st.binary(max_size=2000))


def encoded(entry: Entry, seed: int = SEED, synced_before: bool = False) -> bytes:
    return b"".join(frames.encode_run([entry], seed, synced_before))


@given(an_entry, st.integers(0, 2**32 - 1), st.booleans(), st.binary(max_size=50), st.binary(max_size=50))
def test_a_frame_reads_back_as_it_was_written(
    entry: Entry, seed: int, synced_before: bool, before: bytes, after: bytes
) -> None:
    content = encoded(entry, seed, synced_before)
    frame = frames.frame_at(before + content + after, len(before), seed)
    assert frame == frames.Frame(
        len(before), len(before) + len(content), entry.term, entry.index, entry.kind, synced_before
    )


@given(an_entry, st.data())
def test_a_changed_byte_is_never_accepted(entry: Entry, data: st.DataObject) -> None:
    content = bytearray(encoded(entry))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    assert frames.frame_at(bytes(content), 0, SEED) is None


@given(an_entry, st.data())
def test_a_part_of_a_frame_is_never_accepted(entry: Entry, data: st.DataObject) -> None:
    content = encoded(entry)
    assert frames.frame_at(content[: data.draw(st.integers(0, len(content) - 1))], 0, SEED) is None


@given(an_entry, st.integers(0, 2**32 - 1).filter(lambda seed: seed != SEED))
def test_a_frame_of_another_segment_is_never_accepted(entry: Entry, seed: int) -> None:
    assert frames.frame_at(encoded(entry, seed), 0, SEED) is None


@given(st.binary(max_size=3000), st.integers(0, 2**63))
def test_garbage_holds_no_frame(garbage: bytes, index: int) -> None:
    assert frames.frame_at(garbage, 0, SEED) is None
    assert list(frames.later_frames(garbage, 0, SEED, index)) == []


@given(
    st.lists(st.tuples(st.binary(max_size=80), st.binary(max_size=80)), min_size=1, max_size=8), st.integers(1, 2**60)
)
def test_frames_are_found_between_garbage(parts: list[tuple[bytes, bytes]], index: int) -> None:
    content, starts = b"", []
    for step, (garbage, payload) in enumerate(parts):
        content += garbage
        starts.append(len(content))
        content += encoded(Entry(index + step, 3, 0, payload))
    assert [f.start for f in frames.later_frames(content, 0, SEED, index)] == starts


def test_no_frame_is_looked_for_in_a_sea_of_zeros() -> None:
    content = bytes(8 * 1024 * 1024)
    assert list(frames.later_frames(content, 0, SEED, 1)) == []


def test_a_frame_after_a_sea_of_zeros_is_found() -> None:
    content = bytes(1024 * 1024) + encoded(Entry(7, 1, 0, b"\0" * 100))
    assert [f.index for f in frames.later_frames(content, 0, SEED, 5)] == [7]


def test_the_search_gives_up_on_endless_false_heads(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(frames, "_SEARCH_CRC_BYTES_MAX", 1000)
    head = frames.encode(9, 1, 0, bytes(200), SEED ^ 1)
    try:
        list(frames.later_frames(head * 40, 0, SEED, 5))
    except frames.SearchExhausted:
        return
    raise AssertionError("the search went on")
