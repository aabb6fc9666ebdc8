"""What a leader knows of one follower, in this term.

Invariants, checked by :meth:`Progress.validate`:

* ``match_index < next_index``: what is known to be held is not sent again.  ``next_index`` goes back on a refusal and after a broken link,
  never below ``match_index + 1``: an answer that comes late would otherwise make the follower cut what it acknowledged (H1).
* ``match_index`` only grows, but for a follower that lost what it acknowledged (R4.5): it says so, or it refuses for want of those very
  entries a newer request than the one that it acknowledged them with.  Nothing else can make it: a leader never has a follower cut
  what it acknowledged in this term.  A refusal of an older request was given before, and arrives late.
* ``inflight`` is by request number, rising, and bounded, and what is in it lies above ``match_index``: only what a follower has
  stored makes room for more.  An answer alone says that it lives; released by that, its memory would fill for as long as its
  disk stands still.
* ``answered_request``, ``matched_request``, ``rewound_request`` and ``sleep_request`` are requests that were sent.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from stele.services.pb import raft_pb2 as pb
from stele.services.raft.journal import Journal

INFLIGHT_BYTES_MAX: Final = 8 << 20  # sent and not known to be stored
INFLIGHT_REQUESTS_MAX: Final = 256
NEVER: Final = float("-inf")


class Progress:
    """Times are monotonic seconds; requests are numbers of AppendEntries and SnapshotOffers within this term."""

    __slots__ = (
        "active_at",
        "answered_request",
        "commit_sent",
        "inflight",
        "inflight_bytes",
        "match_index",
        "matched_request",
        "next_index",
        "offered_at",
        "offered_index",
        "probing",
        "recovering_until",
        "rewound_request",
        "sent_at",
        "sleep_request",
    )

    def __init__(self, next_index: int, now: float) -> None:
        self.match_index = 0  # it holds the leader's log up to here, durably
        self.matched_request = 0  # the newest request that it answered so
        self.next_index = next_index  # what it is sent next
        self.inflight: deque[tuple[int, int, int]] = (
            deque()
        )  # (request, last entry, bytes) of what is not known to be stored
        self.inflight_bytes = 0
        self.rewound_request = 0  # what was sent up to this request was sent before next_index went back
        self.probing = False  # the link is new: a request without entries is to be answered before any go with one
        self.active_at = now  # when it was heard last; a new leader grants everybody an election timeout
        self.sent_at = NEVER
        self.commit_sent = 0  # the newest commit index that it was told
        self.answered_request = 0
        self.offered_index = 0  # of the snapshot that it was offered last and may be fetching
        self.offered_at = NEVER  # when it was offered that one first
        self.sleep_request = 0  # not 0: since this request, `sleep` was the last word to it
        self.recovering_until = 0  # not 0: it lost entries, and is not counted until it holds those up to here (R4.5)

    @property
    def counted_index(self) -> int:
        """Up to where it counts towards a majority."""
        return 0 if self.recovering_until else self.match_index

    @property
    def room_bytes(self) -> int:
        """How much more may be sent before it has stored some of it; 0 or less: nothing."""
        return (
            0
            if self.probing or len(self.inflight) >= INFLIGHT_REQUESTS_MAX
            else INFLIGHT_BYTES_MAX - self.inflight_bytes
        )

    def on_sent(self, request: int, entries: int, size: int, commit_index: int, sleep: bool, now: float) -> None:
        """Optimistic: the next request goes on behind this one without waiting for its answer."""
        if entries:
            self.next_index += entries
            self.inflight.append((request, self.next_index - 1, size))
            self.inflight_bytes += size
        self.sent_at, self.commit_sent = now, commit_index
        self.sleep_request = (self.sleep_request or request) if sleep else 0

    def on_offered(self, snapshot_index: int, commit_index: int, now: float) -> None:
        if snapshot_index != self.offered_index:
            self.offered_at = now
        self.sent_at, self.commit_sent, self.offered_index = now, commit_index, snapshot_index

    def on_answer(self, m: pb.AppendAnswer, newest_request: int, journal: Journal, now: float) -> bool:
        """An answer to a request of this term.  True if it shows that the follower lost what it acknowledged, which was not known."""
        self.active_at = now
        if m.request > self.rewound_request:
            self.probing = False
        says_so = m.recovering and m.request >= self.answered_request  # not late: it may have recovered since
        self.answered_request = max(self.answered_request, m.request)
        newly = (says_so or self._lacks_acknowledged(m)) and not self.recovering_until
        if newly or self._lacks_acknowledged(m):  # what it acknowledged before is void
            self.recovering_until = self.recovering_until or journal.last_index
            self.match_index = self.matched_request = 0
        if m.success:
            if m.match_index >= self.match_index:
                self.match_index, self.matched_request = m.match_index, max(self.matched_request, m.request)
                if m.match_index >= self.offered_index:
                    self.offered_index = 0
            self.next_index = max(self.next_index, self.match_index + 1)  # H1: forward only
        else:
            self._on_refusal(m, newest_request, journal)
        self._release(m)
        if not m.recovering and self.match_index >= self.recovering_until:
            self.recovering_until = 0
        return newly

    def _release(self, m: pb.AppendAnswer) -> None:
        """What it has stored is no longer in flight."""
        while self.inflight and self.inflight[0][1] <= self.match_index:
            self.inflight_bytes -= self.inflight.popleft()[2]

    def _lacks_acknowledged(self, m: pb.AppendAnswer) -> bool:
        """A refusal for want of entries that it acknowledged before it was asked."""
        return not m.success and 0 < m.conflict_index <= self.match_index and m.request > self.matched_request

    def _on_refusal(self, m: pb.AppendAnswer, newest_request: int, journal: Journal) -> None:
        if m.request <= self.rewound_request:
            return  # it refuses what was sent before the last rewind: to go back for it too would send everything twice
        wanted = m.conflict_index
        if m.conflict_term:  # H18: skip the whole term unless we hold entries of it
            at = min(wanted, journal.last_index)
            while at >= journal.first_index and journal.term_at(at) > m.conflict_term:
                at -= 1
            wanted = min(wanted, at + 1)
        # Entry 1 is the same everywhere; a log that begins later sends a snapshot for what is below its start.
        lowest = 2 if journal.first_index == 1 else 1
        self.next_index = max(self.match_index + 1, lowest, min(wanted, journal.last_index + 1))
        self._forget_inflight(newest_request)

    def on_link_changed(self, newest_request: int, last_index: int) -> None:
        """What was in flight may be lost: what is not acknowledged is sent again, once one small request was answered: a link that
        breaks under what it is made to carry would break again.  Of a follower of which nothing is known yet the end of the log is
        tried first."""
        self.next_index = self.match_index + 1 if self.match_index else last_index + 1
        self._forget_inflight(newest_request)
        self.probing = True
        self.sent_at = NEVER

    def _forget_inflight(self, newest_request: int) -> None:
        self.rewound_request = newest_request
        self.inflight.clear()
        self.inflight_bytes = 0

    def on_woken(self, node_active_at: float) -> None:
        """After sleep: check-quorum goes on from when its node was last heard, and it hears from us at once."""
        self.active_at = max(self.active_at, node_active_at)
        self.sent_at = NEVER

    def has_everything(self, last_index: int) -> bool:
        """Nothing is left to tell it."""
        return (
            self.match_index == last_index == self.commit_sent
            and not self.inflight
            and not self.offered_index
            and not self.recovering_until
        )

    def validate(self, newest_request: int, last_index: int) -> None:
        assert 0 <= self.match_index < self.next_index <= last_index + 1, (
            self.match_index,
            self.next_index,
            last_index,
        )
        requests = [request for request, _, _ in self.inflight]
        indexes = [self.match_index, *(index for _, index, _ in self.inflight)]
        assert requests == sorted(requests), requests
        assert indexes == sorted(set(indexes)), indexes
        assert indexes[-1] < self.next_index, (indexes, self.next_index)
        assert not requests or self.rewound_request < requests[0], (self.rewound_request, requests)
        assert len(requests) <= INFLIGHT_REQUESTS_MAX, len(requests)
        assert self.inflight_bytes == sum(size for _, _, size in self.inflight), self.inflight_bytes
        for request in (
            self.answered_request,
            self.matched_request,
            self.rewound_request,
            self.sleep_request,
            *requests[-1:],
        ):
            assert 0 <= request <= newest_request, (request, newest_request)
        assert self.commit_sent <= last_index, (self.commit_sent, last_index)
        assert 0 <= self.recovering_until <= last_index, (self.recovering_until, last_index)
        assert not self.offered_index or self.offered_index > self.match_index or self.recovering_until
