"""What opening makes of every kind of damage: a torn tail is cut, anything else is refused and nothing is changed (H7)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.datanode.log import SegmentLog, frames
from stele.datanode.log.recovery import has_hole
from stele.datanode.log.segments import HEADER_BYTES
from stele.services.errors import LogDamaged, SteleError
from stele.services.raft.storage import Entry
from tests.support.both_ways import holds_and_mutant_fails, promise
from tests.support.disks import SimulatedDisk
from tests.unit.log.logs import FOLDER, entries, entry, everything, open_log

FIRST = FOLDER / "00000000000000000001.seg"


def stored(*batches: list[Entry], sync_each: bool = True, segment_bytes: int = 1 << 20) -> SimulatedDisk:
    disk = SimulatedDisk()
    log = open_log(disk, segment_bytes)
    for batch in batches:
        log.append(batch)
        if sync_each:
            log.sync()
    log.sync()
    log.close()
    return disk


def set_bytes(disk: SimulatedDisk, at: int, content: bytes) -> None:
    def change(stored: bytearray) -> None:
        stored[at : at + len(content)] = content

    disk.damage(FIRST, change)


def flip(disk: SimulatedDisk, at: int, mask: int = 0x10) -> None:
    set_bytes(disk, at, bytes([disk.content(FIRST)[at] ^ mask]))


def refused(disk: SimulatedDisk, at: int | None = None) -> None:
    before = disk.content(FIRST)
    with pytest.raises(LogDamaged) as error:
        open_log(disk, 1 << 20)
    assert error.value.facts["path"].startswith(str(FOLDER))
    if at is not None:
        assert error.value.facts["offset"] == str(at)
    assert disk.content(FIRST) == before, "damage is refused, not touched"


LAST = HEADER_BYTES + 2 * 65  # where the third of three entries of 40 bytes begins
END = LAST + 65


@pytest.mark.parametrize("size", range(LAST, END))
def test_h7_a_last_frame_torn_at_any_byte_is_cut(size: int) -> None:
    disk = stored([entry(1)], [entry(2)], [entry(3)])
    disk.damage(FIRST, lambda content: content.__delitem__(slice(size, None)))
    log = open_log(disk)
    assert everything(log) == entries(1, 2)
    assert len(disk.content(FIRST)) == LAST
    log.append([entry(3, term=2)])
    log.close()
    assert everything(open_log(disk)) == [*entries(1, 2), entry(3, term=2)]


@pytest.mark.parametrize("at", range(LAST, END))
@pytest.mark.parametrize("tail", ["zeros", "garbage", "flip"])
def test_h7_a_last_frame_that_does_not_check_is_cut(at: int, tail: str) -> None:
    disk = stored([entry(1)], [entry(2)], [entry(3)])
    if tail == "flip":
        flip(disk, at)
    else:
        set_bytes(disk, at, (bytes(65) if tail == "zeros" else bytes(range(131, 196)))[: END - at] + b"\0\7" * 300)
    found = everything(open_log(disk))
    assert found == entries(1, 2) or (found == entries(1, 3) and tail != "flip" and at > LAST + 25)


@pytest.mark.parametrize("tail", [b"\0", bytes(4096), bytes(100_000), b"x", b"\xff" * 9000, bytes(range(256)) * 20])
def test_h7_a_file_grown_by_blocks_that_were_never_written_is_cut(tail: bytes) -> None:
    disk = stored(entries(1, 3))
    disk.damage(FIRST, lambda content: content.extend(tail))
    assert everything(open_log(disk)) == entries(1, 3)


async def test_h7_damage_at_any_byte_before_the_tail_is_refused() -> None:
    async def scenario(log_type: type[SegmentLog]) -> None:
        for at in range(HEADER_BYTES, LAST):
            disk = stored([entry(1)], [entry(2)], [entry(3)])
            flip(disk, at)
            try:
                log = open_log(disk, 1 << 20, log_type)
            except LogDamaged as e:
                assert e.facts["offset"] == str(HEADER_BYTES + (at - HEADER_BYTES) // 65 * 65)  # noqa: PT017
            else:
                with promise("damage in the middle of a log is not taken for its end"):
                    raise AssertionError(f"byte {at} changed, and {log.last_index} entries were left")

    await holds_and_mutant_fails(scenario, SegmentLog, "log.CutsAtDamage")


@pytest.mark.parametrize("at", range(HEADER_BYTES))
def test_h7_a_damaged_header_is_refused(at: int) -> None:
    disk = stored([entry(1)], [entry(2)])
    flip(disk, at)
    refused(disk, 0)


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1])
def test_h7_a_header_cut_off_is_refused(size: int) -> None:
    disk = stored([entry(1)])
    disk.damage(FIRST, lambda content: content.__delitem__(slice(size, None)))
    refused(disk, 0)


@pytest.mark.parametrize("mask", range(8))
def test_h7_a_changed_length_before_the_tail_is_refused(mask: int) -> None:
    for at in range(4):
        disk = stored([entry(1)], [entry(2)], [entry(3)])
        flip(disk, HEADER_BYTES + 65 + at, 1 << mask)
        refused(disk, HEADER_BYTES + 65)


def test_zeros_over_synced_bytes_are_damage() -> None:
    disk = stored(entries(1, 30), [entry(31)])
    set_bytes(disk, 512, bytes(1024))
    refused(disk)


def test_a_sector_missing_from_the_last_append_is_a_torn_tail() -> None:
    """The power went while the disk wrote sectors in an order of its own: later frames are there, an earlier one is not."""
    disk = stored(entries(1, 4), entries(5, 60))
    set_bytes(disk, 1024, bytes(512))
    found = everything(open_log(disk))
    assert found == entries(1, len(found))
    assert 4 < len(found) == (1024 - HEADER_BYTES) // 65


def test_the_first_sector_missing_from_the_last_append_is_a_torn_tail() -> None:
    disk = stored(entries(1, 4), entries(5, 60))
    start = HEADER_BYTES + 4 * 65
    set_bytes(disk, start, bytes(512 - start))
    assert everything(open_log(disk)) == entries(1, 4)


def test_a_changed_byte_within_the_last_append_is_damage() -> None:
    disk = stored(entries(1, 4), entries(5, 60))
    flip(disk, 1100)
    refused(disk, HEADER_BYTES + (1100 - HEADER_BYTES) // 65 * 65)


def test_two_appends_without_a_sync_between_them_are_one_tail() -> None:
    disk = SimulatedDisk()
    log = open_log(disk, 1 << 20)
    log.append(entries(1, 4))
    log.append(entries(5, 60))
    log.close()
    set_bytes(disk, HEADER_BYTES, bytes(512 - HEADER_BYTES))
    assert everything(open_log(disk)) == []


def test_an_index_gap_is_damage() -> None:
    disk = stored(entries(1, 3))
    seed = frames_seed(disk)
    more = b"".join(frames.encode_run([entry(5)], seed, False))
    disk.damage(FIRST, lambda content: content.extend(more))
    refused(disk, END)


def test_a_term_that_falls_is_damage() -> None:
    disk = stored(entries(1, 3, term=2))
    more = b"".join(frames.encode_run([entry(4, term=1)], frames_seed(disk), False))
    disk.damage(FIRST, lambda content: content.extend(more))
    refused(disk, END)


def test_frames_of_another_segment_behind_the_end_are_a_tail() -> None:
    """A block that the file system gave from a deleted file: entries that would follow, under another seed."""
    disk = stored(entries(1, 3))
    more = b"".join(frames.encode_run(entries(4, 9), frames_seed(disk) ^ 1, True))
    disk.damage(FIRST, lambda content: content.extend(more))
    assert everything(open_log(disk)) == entries(1, 3)


def test_a_payload_that_looks_like_a_log_is_only_a_payload() -> None:
    inner = b"".join(frames.encode_run(entries(2, 9), 77, True))
    disk = stored([Entry(1, 1, 0, inner)], [Entry(2, 1, 0, inner * 3)])
    disk.damage(FIRST, lambda content: content.__delitem__(slice(-1, None)))
    assert everything(open_log(disk)) == [Entry(1, 1, 0, inner)]


def frames_seed(disk: SimulatedDisk) -> int:
    from stele.datanode.log.segments import read_header

    return read_header(disk.content(FIRST), FIRST).seed


# --- sealed segments ------------------------------------------------------------------------------------------------


def sealed() -> SimulatedDisk:
    disk = stored(*(entries(start, start + 9) for start in range(1, 60, 10)), segment_bytes=1000)
    assert len(disk.listdir(FOLDER)) == 6
    return disk


def test_a_missing_segment_is_refused() -> None:
    for name in sealed().listdir(FOLDER)[1:-1]:
        disk = sealed()
        disk.unlink(FOLDER / name)
        with pytest.raises(LogDamaged, match="one is missing"):
            open_log(disk)


@pytest.mark.parametrize("change", [-1, 1, -700, 5000])
def test_a_sealed_segment_of_another_size_is_refused(change: int) -> None:
    disk = sealed()

    def resize(content: bytearray) -> None:
        if change > 0:
            content.extend(bytes(change))
        else:
            del content[change:]

    disk.damage(FIRST, resize)
    refused(disk)


def test_h7_damage_in_a_sealed_segment_is_found_by_reading_it() -> None:
    for at in range(HEADER_BYTES, HEADER_BYTES + 650, 7):
        disk = sealed()
        flip(disk, at)
        log = open_log(disk, 1000)
        bad = 1 + (at - HEADER_BYTES) // 65
        if bad > 1:
            assert log.read(1, 20, 1 << 20) == entries(1, bad - 1), "what stands before the damage"
        with pytest.raises(LogDamaged) as error:
            log.read(bad, 20, 1 << 20)
        assert error.value.facts["path"] == str(FIRST)
        assert error.value.facts["index"] == str(bad)
        assert log.read(11, 60, 1 << 20) == entries(11, 60), "other segments stay readable"
        assert log.read(10, 10, 1) == entries(10, 10) if bad < 10 and (at - HEADER_BYTES) % 65 > 24 else True


def test_a_damaged_footer_costs_a_scan_and_nothing_else() -> None:
    for at in range(HEADER_BYTES + 650, len(sealed().content(FIRST))):
        disk = sealed()
        flip(disk, at)
        assert everything(open_log(disk, 1000)) == entries(1, 60)


def test_damage_found_while_a_footer_is_rebuilt_is_refused() -> None:
    disk = sealed()
    flip(disk, HEADER_BYTES + 652)
    flip(disk, HEADER_BYTES + 100)
    log = open_log(disk, 1000)
    with pytest.raises(LogDamaged):
        log.read(1, 10, 1000)


def test_a_crash_between_seal_and_successor_goes_on_in_the_sealed_segment() -> None:
    disk = sealed()
    for name in disk.listdir(FOLDER)[1:]:
        disk.unlink(FOLDER / name)
    log = open_log(disk, 1000)
    assert everything(log) == entries(1, 10)
    log.append(entries(11, 20))
    log.close()
    assert everything(open_log(disk, 1000)) == entries(1, 20)


def test_frames_behind_a_footer_are_damage() -> None:
    disk = sealed()
    for name in disk.listdir(FOLDER)[1:]:
        disk.unlink(FOLDER / name)
    more = b"".join(frames.encode_run([entry(11)], frames_seed(disk), True))
    disk.damage(FIRST, lambda content: content.extend(more))
    refused(disk)


# --- anything -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_ends_in_a_prefix_or_a_refusal(data: st.DataObject) -> None:
    """Nothing damaged is ever accepted: what reads is what was written, and only the newest may be missing."""
    batches = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    size = data.draw(st.integers(0, 300))
    runs, index = [], 1
    for count in batches:
        runs.append(entries(index, index + count - 1, size=size))
        index += count
    disk = stored(*runs, segment_bytes=1000)
    name = data.draw(st.sampled_from(disk.listdir(FOLDER)))
    content = disk.content(FOLDER / name)
    at = data.draw(st.integers(0, len(content)))
    piece = data.draw(st.binary(max_size=100) | st.integers(0, 2000).map(bytes))
    how = data.draw(st.sampled_from(["overwrite", "insert", "cut", "append"]))

    def change(stored: bytearray) -> None:
        match how:
            case "overwrite":
                stored[at : at + len(piece)] = piece
            case "insert":
                stored[at:at] = piece
            case "cut":
                del stored[at:]
            case _:
                stored.extend(piece)

    disk.damage(FOLDER / name, change)
    try:
        log = open_log(disk, 1000)
        found = log.read(1, index, 1 << 30)
        terms = [log.term_at(e.index) for e in found]
    except SteleError as e:
        assert isinstance(e, LogDamaged)  # noqa: PT017
        return
    assert found == entries(1, len(found), size=size)
    assert terms == [1] * len(found)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000), st.binary(max_size=100))
def test_a_file_of_garbage_is_refused(content: bytes, more: bytes) -> None:
    disk = SimulatedDisk()
    disk.makedirs(FOLDER)
    disk.create(FIRST)
    disk.damage(FIRST, lambda stored: stored.extend(content + more))
    with pytest.raises(LogDamaged):
        open_log(disk)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000))
def test_garbage_behind_the_entries_is_a_tail(content: bytes) -> None:
    disk = stored(entries(1, 5))
    disk.damage(FIRST, lambda stored: stored.extend(content))
    assert everything(open_log(disk)) == entries(1, 5)


@pytest.mark.parametrize(
    ("content", "offset", "torn"),
    [
        (b"", 0, False),
        (bytes(511), 0, False),
        (bytes(512), 0, True),
        (b"x" + bytes(511), 0, False),
        (b"x" * 512 + bytes(512), 0, True),
        (bytes(3), 509, False),
        (bytes(4), 508, True),
        (bytes(3) + b"x" * 512 + bytes(100), 509, False),
        (b"x" * 700 + bytes(600), 0, False),
        (b"x" * 700 + bytes(836), 0, True),
    ],
)
def test_a_hole_is_a_whole_sector_of_zeros(content: bytes, offset: int, torn: bool) -> None:
    assert has_hole(content, offset) is torn
