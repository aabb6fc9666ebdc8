"""Which batches of which producers are stored: a retry is recognised, a gap is refused.

Guarantee: a batch of a producer is stored at most once while the producer is remembered, and the sequences of a producer epoch are stored
without gaps; once a batch of a later epoch is stored, none of an earlier one is, so that what a producer has given up does not come behind
what it sent afterwards.  What is remembered is bounded: the last ``WINDOW_BATCHES`` batches of a producer's epoch, and the
``PRODUCERS_MAX`` producers that wrote last (by position in the log, so that every replica forgets the same one).  A
producer that was forgotten must begin an epoch.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict

from stele.datanode.commands import Appended, Refused
from stele.datanode.snapshot_codec import SnapshotDecoder, SnapshotEncoder
from stele.services.batch import SEQUENCE_END, BatchHeader
from stele.services.errors import InvalidArgument, OutOfOrderSequence

WINDOW_BATCHES = 64
PRODUCERS_MAX = 10_000


class _Window:
    """The last batches of one producer's epoch; they are consecutive in sequence, not in offset."""

    __slots__ = ("bases", "next_sequence", "offsets")

    def __init__(self) -> None:
        self.next_sequence = 0
        self.bases = array("Q")  # base sequence of each batch, oldest first
        self.offsets = array("Q")  # its base offset

    def find(self, header: BatchHeader) -> int | None:
        """The offset at which the sequences of ``header`` are stored, if one remembered batch holds them all."""
        at = bisect_right(self.bases, header.base_sequence) - 1
        if at < 0:
            return None
        end = self.bases[at + 1] if at + 1 < len(self.bases) else self.next_sequence
        if header.last_sequence >= end:
            return None
        return self.offsets[at] + header.base_sequence - self.bases[at]

    def add(self, header: BatchHeader, offset: int) -> None:
        if header.base_sequence != self.next_sequence:
            del self.bases[:], self.offsets[:]  # an epoch begins
        self.bases.append(header.base_sequence)
        self.offsets.append(offset)
        if len(self.bases) > WINDOW_BATCHES:
            del self.bases[0], self.offsets[0]
        self.next_sequence = header.last_sequence + 1


class Producers:
    def __init__(self, producers_max: int = PRODUCERS_MAX) -> None:
        self.limit = producers_max
        self._windows: OrderedDict[int, _Window] = OrderedDict()  # least recently written first

    def __len__(self) -> int:
        return len(self._windows)

    def next_sequence(self, producer_id: int) -> int:
        window = self._windows.get(producer_id)
        return window.next_sequence if window else 0

    def check(self, header: BatchHeader) -> Appended | Refused | None:
        """None: the batch is to be stored.  Else it is a duplicate, or out of order.  Changes nothing: whoever looks before it
        proposes must leave the state as the entries alone make it, the same on every replica."""
        if header.producer_id == 0:
            return None
        if header.last_sequence >= SEQUENCE_END:
            return Refused.of(InvalidArgument(f"sequence {header.base_sequence} leaves 64 bits"))
        window = self._windows.get(header.producer_id)
        expected = window.next_sequence if window else 0
        if header.follows(expected):
            return None
        if window is not None and header.base_sequence < expected:
            offset = window.find(header)
            if offset is not None:
                return Appended(offset, duplicate=True)
        return out_of_order(header, expected, is_known=window is not None)

    def applied(self, header: BatchHeader) -> Appended | Refused | None:
        """As :meth:`check`, of a batch in an entry that is applied: a duplicate counts as a word of its producer."""
        known = self.check(header)
        if isinstance(known, Appended):
            self._windows.move_to_end(header.producer_id)
        return known

    def stored(self, header: BatchHeader, offset: int) -> None:
        """``header``'s batch, which :meth:`check` let pass, is stored at ``offset``."""
        if header.producer_id == 0:
            return
        window = self._windows.get(header.producer_id)
        if window is None:
            if len(self._windows) >= self.limit:
                self._windows.popitem(last=False)
            window = self._windows[header.producer_id] = _Window()
        else:
            self._windows.move_to_end(header.producer_id)
        window.add(header, offset)

    def validate(self, high_watermark: int) -> None:
        assert len(self._windows) <= self.limit
        for producer_id, w in self._windows.items():
            assert producer_id != 0
            assert 0 < len(w.bases) == len(w.offsets) <= WINDOW_BATCHES
            assert all(a < b for a, b in zip(w.bases, w.bases[1:], strict=False))
            assert all(a < b for a, b in zip(w.offsets, w.offsets[1:], strict=False))
            assert w.bases[-1] < w.next_sequence
            assert w.offsets[-1] + w.next_sequence - w.bases[-1] <= high_watermark

    def encode(self, out: SnapshotEncoder) -> None:
        out.u64(len(self._windows))
        for producer_id, window in self._windows.items():
            out.u64(producer_id, window.next_sequence)
            out.column(window.bases)
            out.column(window.offsets)

    def decode(self, source: SnapshotDecoder) -> None:
        for _ in range(source.u64()):
            window = _Window()
            producer_id, window.next_sequence = source.u64(), source.u64()
            window.bases, window.offsets = source.column(), source.column()
            self._windows[producer_id] = window


def out_of_order(header: BatchHeader, expected: int, *, is_known: bool) -> Refused:
    """``header``'s batch does not follow what is stored of its producer."""
    known = "" if is_known else ", which is not known here"
    return Refused.of(
        OutOfOrderSequence(
            f"producer {header.producer_id}{known} sends sequence {header.base_sequence}; expected is {expected}",
            expected=expected,
            got=header.base_sequence,
            producer="known" if is_known else "unknown",
        )
    )
