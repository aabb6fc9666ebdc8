"""Where in the log an offset is, and which offset a time is, in memory that does not grow with the log.

Both indexes are sparse: a bounded list of points; when it is full every second point goes and the spacing doubles; as
trims make room it halves again.  Which points remain depends on the log alone, so equal logs have equal indexes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass

from stele.datanode.snapshot_codec import SnapshotDecoder, SnapshotEncoder

POINTS_MAX = 65_536
INDEX_SPACING = 64  # log entries between two points, at first; 16 KiB count as one entry more
TIME_POINTS_MAX = 4_096
TIME_SPACING_MS = 1_000  # milliseconds between two points, at first
FAR_MS = 3_600_000  # of two times that are further apart than clocks and queues explain, one may be wrong
LEAPS_MAX = 16
DOUBTS_MAX = 16
PARTIAL_BYTES_MAX = 1 << 20  # in a snapshot; past it a leader lets it grow no more (datanode/serial_appends.py)
_PARTIAL_HEAD_BYTES = 16


class _Points:
    """Pairs that grow in both columns."""

    __slots__ = ("_max", "_spacing_min", "keys", "spacing", "values")

    def __init__(self, points_max: int, spacing: int) -> None:
        self._max = points_max
        self._spacing_min = spacing
        self.spacing = spacing
        self.keys = array("Q")
        self.values = array("Q")

    def add(self, key: int, value: int) -> None:
        if len(self.keys) >= self._max:
            self.keys, self.values = self.keys[::2], self.values[::2]
            self.spacing *= 2
        self.keys.append(key)
        self.values.append(value)

    def drop(self, count: int) -> None:
        """Forgets the first ``count`` points."""
        if count > 0:
            del self.keys[:count], self.values[:count]
        if len(self.keys) * 4 <= self._max and self.spacing > self._spacing_min:
            self.spacing //= 2

    def cut_behind(self, key: int) -> None:
        """Forgets the points above ``key``."""
        at = bisect_right(self.keys, key)
        del self.keys[at:], self.values[at:]

    def validate(self) -> None:
        assert len(self.keys) == len(self.values) <= self._max
        assert self.spacing >= self._spacing_min
        assert all(a < b for a, b in zip(self.keys, self.keys[1:], strict=False))
        assert all(a <= b for a, b in zip(self.values, self.values[1:], strict=False))

    def encode(self, out: SnapshotEncoder) -> None:
        out.u64(self.spacing)
        out.column(self.keys)
        out.column(self.values)

    def decode(self, source: SnapshotDecoder) -> None:
        self.spacing = source.u64()
        self.keys, self.values = source.column(), source.column()


class OffsetIndex:
    """From an offset to a log index at or before the entry that stores it.

    The reader walks on from there: an append entry stores all its batches one after the other, except for the entries
    in ``partial``, of which only some batches (duplicates, refusals) or none were stored.
    """

    def __init__(self, points_max: int = POINTS_MAX, spacing: int = INDEX_SPACING) -> None:
        self._points = _Points(points_max, spacing)  # base offset → log index
        self._partial: dict[int, int] = {}  # log index → bit i set: batch i was stored
        self._partial_bytes = 0
        self._bytes_since = 0  # bytes appended since the last point

    def stored(self, index: int, base_offset: int, size: int) -> None:
        """The entry at ``index`` stores messages from ``base_offset`` on, ``size`` bytes of them."""
        indexes = self._points.values
        if not indexes or index - indexes[-1] + (self._bytes_since >> 14) >= self._points.spacing:
            self._points.add(base_offset, index)
            self._bytes_since = 0
        self._bytes_since += size

    def stored_only(self, index: int, mask: int) -> None:
        """Of the append entry at ``index`` only the batches in ``mask`` were stored."""
        self._partial[index] = mask
        self._partial_bytes += _bytes_of(mask)

    @property
    def is_crowded(self) -> bool:
        """Whether no more entries should come of which only parts are stored."""
        return self._partial_bytes >= PARTIAL_BYTES_MAX

    def locate(self, offset: int) -> tuple[int, int] | None:
        """``(index, base_offset)`` of the last known entry that begins at or before ``offset``; None: no such entry."""
        at = bisect_right(self._points.keys, offset) - 1
        return (self._points.values[at], self._points.keys[at]) if at >= 0 else None

    def next_point(self, offset: int) -> tuple[int, int] | None:
        """``(index, base_offset)`` of the first known entry that begins behind ``offset``; None: there is none."""
        at = bisect_right(self._points.keys, offset)
        return (self._points.values[at], self._points.keys[at]) if at < len(self._points.keys) else None

    def mask(self, index: int) -> int | None:
        """None: every batch of the append entry at ``index`` was stored."""
        return self._partial.get(index)

    def trim(self, log_start: int) -> None:
        """Nothing below ``log_start`` will be asked for: one point at or before it stays, and what the walk from there needs."""
        self._points.drop(bisect_right(self._points.keys, log_start) - 1)
        if self._points.values:
            first = self._points.values[0]
            self._partial = {index: mask for index, mask in self._partial.items() if index >= first}
            self._partial_bytes = sum(map(_bytes_of, self._partial.values()))

    def validate(self, applied_index: int, log_start: int, high_watermark: int) -> None:
        self._points.validate()
        assert bool(self._points.keys) == (high_watermark > 0)
        if self._points.keys:
            assert self._points.keys[0] <= log_start, "the first message that is kept cannot be found"
            assert self._points.keys[-1] < high_watermark
            assert self._points.values[-1] <= applied_index
        assert all(0 < index <= applied_index for index in self._partial)
        assert self._partial_bytes == sum(map(_bytes_of, self._partial.values()))

    def encode(self, out: SnapshotEncoder) -> None:
        self._points.encode(out)
        out.u64(self._bytes_since, len(self._partial))
        for index, mask in self._partial.items():
            out.u64(index)
            out.blob(mask.to_bytes((mask.bit_length() + 7) // 8, "big"))

    def decode(self, source: SnapshotDecoder) -> None:
        self._points.decode(source)
        self._bytes_since = source.u64()
        for _ in range(source.u64()):
            index = source.u64()
            self.stored_only(index, int.from_bytes(source.blob(), "big"))


def _bytes_of(mask: int) -> int:
    return _PARTIAL_HEAD_BYTES + (mask.bit_length() + 7) // 8


@dataclass(frozen=True, slots=True)
class _Leap:
    """The batches' time went ahead by more than ``FAR_MS`` at once."""

    from_ms: int
    to_ms: int


class TimeIndex:
    """From a time to an offset before which every batch is older.

    Times are those of batches (their oldest message), given by producers' clocks: they need not grow, and some are wrong.  The position
    found may be early by the spacing of the points, never late.

    A leap ahead may be a pause of the producers or a clock that is set wrong, and everything that comes at the right time would then be
    older than the last point for as long as that clock is ahead.  So leaps are remembered, and one is taken back, with all that
    followed it, once ``DOUBTS_MAX`` more batches have gone on from before it than from behind it.  Until then times are found early.
    """

    def __init__(self, points_max: int = TIME_POINTS_MAX, spacing_ms: int = TIME_SPACING_MS) -> None:
        self._points = _Points(points_max, spacing_ms)  # time → offset
        self.latest_ms = 0  # the highest time of any batch that is believed
        self._leaps: list[_Leap] = []  # the newest, oldest first
        self._doubts = 0
        self._doubting_ms = 0  # the highest time of a batch that doubts

    def stored(self, timestamp_ms: int, base_offset: int) -> None:
        if self._takes_back_a_leap(timestamp_ms):
            # Older than this are all batches before, and this one: without a point here the next leap would leave none.
            timestamp_ms = self.latest_ms + 1
        times = self._points.keys
        # All batches before a point are older than it: one that was not would have been a point itself, or is not believed.
        if not times or timestamp_ms >= max(times[-1] + self._points.spacing, self.latest_ms + 1):
            self._points.add(timestamp_ms, base_offset)
        self.latest_ms = max(self.latest_ms, timestamp_ms)

    def _takes_back_a_leap(self, timestamp_ms: int) -> bool:
        if timestamp_ms > self.latest_ms + FAR_MS:
            self._leaps = [*self._leaps, _Leap(self.latest_ms, timestamp_ms)][-LEAPS_MAX:]
            self._doubts = self._doubting_ms = 0
        elif timestamp_ms >= self.latest_ms - FAR_MS:
            self._doubts = max(0, self._doubts - 1)
        else:
            return self._doubt(timestamp_ms)
        return False

    def _doubt(self, timestamp_ms: int) -> bool:
        """True if that was one doubt too many."""
        doubted = [leap for leap in self._leaps if leap.from_ms - FAR_MS <= timestamp_ms < leap.to_ms - FAR_MS]
        if not doubted:
            return False  # it is merely late
        self._doubts += 1
        self._doubting_ms = max(self._doubting_ms, timestamp_ms)
        if self._doubts < DOUBTS_MAX:
            return False
        self.latest_ms = max(doubted[0].from_ms, self._doubting_ms)
        self._points.cut_behind(doubted[0].from_ms)
        self._leaps = self._leaps[: self._leaps.index(doubted[0])]
        self._doubts = self._doubting_ms = 0
        return True

    def locate(self, timestamp_ms: int) -> int | None:
        """The offset to start from for everything at or after ``timestamp_ms``; None: from the beginning."""
        at = bisect_right(self._points.keys, timestamp_ms) - 1
        return self._points.values[at] if at >= 0 else None

    def trim(self, log_start: int) -> None:
        """Nothing below ``log_start`` will be asked for: one point at or before it stays."""
        self._points.drop(bisect_right(self._points.values, log_start) - 1)

    def validate(self, high_watermark: int) -> None:
        self._points.validate()
        if self._points.keys:
            assert self._points.keys[-1] <= self.latest_ms
            assert self._points.values[-1] < high_watermark
        assert len(self._leaps) <= LEAPS_MAX
        assert all(leap.from_ms + FAR_MS < leap.to_ms <= self.latest_ms for leap in self._leaps)
        assert 0 <= self._doubts < DOUBTS_MAX

    def encode(self, out: SnapshotEncoder) -> None:
        out.u64(self.latest_ms)
        self._points.encode(out)

    def encode_leaps(self, out: SnapshotEncoder) -> None:
        """At the very end of a snapshot, and nothing where there are none: so it was before leaps were known."""
        if self._leaps:
            out.u64(self._doubts, self._doubting_ms, len(self._leaps))
            for leap in self._leaps:
                out.u64(leap.from_ms, leap.to_ms)

    def decode(self, source: SnapshotDecoder) -> None:
        self.latest_ms = source.u64()
        self._points.decode(source)

    def decode_leaps(self, source: SnapshotDecoder) -> None:
        if source.has_more:
            self._doubts, self._doubting_ms = source.u64(), source.u64()
            self._leaps = [_Leap(source.u64(), source.u64()) for _ in range(source.u64())]
