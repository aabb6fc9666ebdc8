"""Commands travel as bytes; damaged bytes are told apart from commands, always by the same error."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stele.datanode import commands
from stele.datanode.commands import (
    ACK_RANGES_MAX,
    Ack,
    Append,
    CommandDamaged,
    CreateCursor,
    DeleteCursor,
    FenceOwner,
    Position,
    ResetCursor,
    Start,
    Trim,
)
from stele.services import batch
from stele.services.errors import BatchCorrupt
from tests.unit.datanode.entries import make_batch

u64 = st.integers(0, 2**64 - 1)
names = st.text(min_size=1, max_size=30)
positions = st.builds(Position, st.sampled_from(Start), u64)
creatable = positions.filter(lambda p: p.start is not Start.TIMESTAMP)
ranges = st.lists(st.tuples(u64, u64), max_size=20).map(tuple)
redelivered = st.lists(st.tuples(u64, u64, st.integers(1, 2**32 - 1)), min_size=1, max_size=5).map(tuple)
small = st.one_of(
    st.builds(FenceOwner, u64),
    st.builds(CreateCursor, u64, names, creatable),
    st.builds(Ack, u64, names, u64, ranges),
    st.builds(Ack, u64, names, u64, ranges, redelivered),
    st.builds(ResetCursor, u64, names, positions),
    st.builds(DeleteCursor, u64, names),
    st.builds(Trim, u64),
)


@given(small)
def test_a_command_survives_its_bytes(command):
    assert commands.decode(commands.encode(command)) == command


@given(u64, st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_an_append_keeps_epoch_and_headers(epoch, counts):
    batches = [make_batch(n, producer_id=7, sequence=i) for i, n in enumerate(counts)]
    decoded = commands.decode(commands.encode_append(epoch, batches))
    assert decoded == Append(epoch, tuple(batch.read_header(b) for b in batches))


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x01" + bytes(8))
@example(b"\x01" + bytes(8) + b"\x53\x74\x01\x00" + bytes(36))
@example(b"\x03" + bytes(8))
@example(b"\x07" + bytes(8))
@example(b"\x07" + bytes(7) + b"\x01" + bytes(8))
@example(b"\x07" + bytes(17))
@example(b"\x03" + bytes(8) + b"\x02\xff\xfe" + bytes(9))
def test_any_bytes_are_a_command_or_damaged(payload):
    try:
        commands.decode(payload)
    except (CommandDamaged, BatchCorrupt):
        pass


@given(small, st.data())
def test_a_command_cut_off_is_damaged(command, data):
    encoded = commands.encode(command)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(CommandDamaged):
        commands.decode(encoded[:cut])


@given(small, st.binary(min_size=1, max_size=9))
def test_bytes_after_a_command_are_damage(command, tail):
    with pytest.raises(CommandDamaged):
        commands.decode(commands.encode(command) + tail)


@pytest.mark.parametrize("cut", [1, 20, 44, 45])
def test_an_append_cut_off_is_corrupt(cut):
    payload = commands.encode_append(1, [make_batch(3), make_batch(2)])
    with pytest.raises(BatchCorrupt):
        commands.decode(payload[:-cut])


def test_an_unknown_command_is_damaged():
    with pytest.raises(CommandDamaged, match="99"):
        commands.decode(bytes([99]) + bytes(8))


def test_an_append_without_batches_is_damaged():
    with pytest.raises(CommandDamaged, match="without a batch"):
        commands.decode(commands.encode_append(1, []))


def test_a_cursor_is_not_created_at_a_timestamp():
    with pytest.raises(CommandDamaged, match="timestamp"):
        commands.decode(commands.encode(CreateCursor(1, "s", Position(Start.TIMESTAMP, 5))))


@pytest.mark.parametrize("name", ["", "n" * 129])
def test_a_name_out_of_bounds_is_not_encoded(name):
    with pytest.raises(ValueError, match="1 to 128 bytes"):
        commands.encode(DeleteCursor(1, name))


def test_too_many_ranges_are_damage():
    too_many = tuple((i, i) for i in range(ACK_RANGES_MAX + 1))
    with pytest.raises(CommandDamaged, match="ranges"):
        commands.decode(commands.encode(Ack(1, "s", 1, too_many)))
