"""What bounds the memory of a replica, looked at whenever what they bound grows.

Guarantee: after each call that may fill one of the bounds it is held against what the product itself says, by its constants.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stele.services.raft import engine as engine_module
from stele.services.raft import journal, lanes, progress, proposals, read_index, replication

ENTRY_BYTES_MAX: Final = 1 << 20  # of a log's entry, whatever a datanode's setting


@dataclass(frozen=True, slots=True)
class Bound:
    """``size`` is at most ``limit`` after each of ``methods`` of ``owner``."""

    what: str
    owner: type
    methods: tuple[str, ...]
    size: Callable[[Any], float]
    limit: Callable[[Any], float]


REPLICA: Final = (
    # What is full takes nothing more; what filled it last may be one piece of the largest size beyond.
    Bound("bytes of a replica that wait for its disk", journal.Journal, ("append",), lambda j: j.unsynced_bytes,
          lambda _: journal.UNSYNCED_BYTES_MAX + replication.BATCH_BYTES_MAX + 2 * ENTRY_BYTES_MAX),
    Bound("bytes that wait for one disk", journal.Journal, ("append",), lambda j: j._on_disk.total,
          lambda _: journal.DISK_UNSYNCED_BYTES_MAX + 16 * (replication.BATCH_BYTES_MAX + 2 * ENTRY_BYTES_MAX)),
    Bound("bytes of a log kept in memory", journal.Journal, ("_trim",), lambda j: j._tail_bytes,
          lambda j: j._tail_bytes_max + j.unsynced_bytes),
    Bound("bytes in flight to a follower", progress.Progress, ("on_sent",), lambda p: p.inflight_bytes,
          lambda _: progress.INFLIGHT_BYTES_MAX + ENTRY_BYTES_MAX),
    Bound("requests in flight to a follower", progress.Progress, ("on_sent",), lambda p: len(p.inflight),
          lambda _: progress.INFLIGHT_REQUESTS_MAX),
    Bound("bytes that wait for a link", lanes.Lanes, ("put",), lambda q: q._bytes, lambda _: lanes.QUEUE_BYTES_MAX),
    Bound("entries that wait for a link", lanes.Lanes, ("put",), lambda q: q._bulk_bytes,
          lambda _: lanes.BULK_BYTES_MAX + progress.INFLIGHT_BYTES_MAX + 2 * ENTRY_BYTES_MAX),
    Bound("proposals of a group", proposals.Proposals, ("add",), len, lambda _: proposals.PENDING_MAX),
    Bound("bytes of a group's proposals", proposals.Proposals, ("add",), lambda p: p._bytes,
          lambda _: proposals.PENDING_BYTES_MAX + ENTRY_BYTES_MAX),
    Bound("reads of a group", read_index.ReadIndex, ("add",), len, lambda _: engine_module.READS_MAX),
)  # fmt: skip


class Bounds:
    """``violated`` is told of a bound that does not hold, ``where`` says of which process."""

    def __init__(self, bounds: Sequence[Bound], violated: Callable[[str, str], None], where: Callable[[], str]) -> None:
        self._bounds = bounds
        self._violated, self._where = violated, where
        self.looks: Counter[str] = Counter()  # at each bound
        self.highest: dict[str, float] = {}  # of each: the most that was ever there
        self.nearest: dict[str, float] = {}  # of each: the largest part of what may be there

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        replaced: list[tuple[type, str, Any]] = []
        try:
            self._watch(replaced)
            yield
        finally:
            for owner, method, original in reversed(replaced):
                setattr(owner, method, original)

    def _watch(self, replaced: list[tuple[type, str, Any]]) -> None:
        for bound in self._bounds:
            for method in bound.methods:
                self._wrap(bound.owner, method, functools.partial(self.look, bound), replaced)

    def look(self, bound: Bound, of: Any) -> None:
        self.looks[bound.what] += 1
        size = bound.size(of)
        if size > self.highest.get(bound.what, -1):
            self.highest[bound.what] = size
        limit = bound.limit(of)
        if size > limit * self.nearest.get(bound.what, -1.0):
            self.nearest[bound.what] = size / limit
        if size > limit:
            self._violated("bound", f"{bound.what} at {self._where()}: {size:g}, bound {limit:g}")

    @staticmethod
    def _wrap(owner: type, method: str, look: Callable[[Any], None], replaced: list[tuple[type, str, Any]]) -> None:
        original = getattr(owner, method)

        @functools.wraps(original)
        def looked_at(self: Any, *given: Any, **named: Any) -> Any:
            result = original(self, *given, **named)
            look(self)
            return result

        replaced.append((owner, method, original))
        setattr(owner, method, looked_at)
