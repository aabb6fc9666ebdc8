"""Whether the process at the other end of each link is alive, told from what arrives: one clockwork for all links of a store.

Guarantee: as long as both processes run and the network carries, neither end hears nothing for longer than a heartbeat interval and the way
of one frame.  A peer that was not heard for ``silence_s`` although its stream stands (a pause, a partition: the connection looks fine)
is reported silent once, and heard once when it speaks again.

Pure: the caller says what it sent and heard, calls ``check`` when ``next_check`` comes, and carries out the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NEVER: Final = float("-inf")
TOGETHER: Final = (
    0.25  # of an interval: when one link must be greeted, so are all on which nothing was said for this long
)


@dataclass(frozen=True, slots=True)
class Check:
    """What there is to do now."""

    greet: list[int]  # stores that must be sent something, if only an empty frame
    silent: list[int]  # stores that have fallen silent


@dataclass(slots=True)
class _Peer:
    sent_at: float
    active_at: float
    connected: bool = True
    silent: bool = False


class Liveness:
    """Times are monotonic seconds."""

    def __init__(self, heartbeat_s: float, silence_s: float) -> None:
        self.heartbeat_s = heartbeat_s
        self.silence_s = silence_s
        self._peers: dict[int, _Peer] = {}
        self._expected_at = float("inf")  # when the caller was last told to come
        self._judge_at = NEVER

    def connected(self, store_id: int, now: float) -> None:
        """A stream stands: that is a word of the peer."""
        self._peers[store_id] = _Peer(sent_at=now, active_at=now)

    def disconnected(self, store_id: int) -> None:
        peer = self._peers[store_id]
        peer.connected = peer.silent = False

    def forget(self, store_id: int) -> None:
        """Nothing of it is wanted any more."""
        self._peers.pop(store_id, None)

    def on_sent(self, store_id: int, now: float) -> None:
        self._peers[store_id].sent_at = now

    def on_received(self, store_id: int, now: float) -> bool:
        """True if the peer had been reported silent."""
        peer = self._peers[store_id]
        peer.active_at = now
        was_silent, peer.silent = peer.silent, False
        return was_silent

    def last_active(self, store_id: int) -> float:
        peer = self._peers.get(store_id)
        return peer.active_at if peer is not None else NEVER

    def is_live(self, store_id: int, now: float) -> bool:
        """Connected and heard of late."""
        peer = self._peers.get(store_id)
        return peer is not None and peer.connected and now - peer.active_at < self.silence_s

    def check(self, now: float) -> Check:
        """A process that comes late to its own clock was stalled itself: what the others sent meanwhile waits to be read, so it judges
        nobody for a heartbeat interval (H14)."""
        if now - self._expected_at >= self.heartbeat_s:
            self._judge_at = now + self.heartbeat_s
        check = Check([], [])
        for store_id, peer in self._peers.items():
            if not peer.connected:
                continue
            if now - peer.sent_at >= self.heartbeat_s * TOGETHER:
                check.greet.append(store_id)
                peer.sent_at = now  # once per interval, however long the frame takes to leave
            if now >= self._judge_at and not peer.silent and now - peer.active_at >= self.silence_s:
                peer.silent = True
                check.silent.append(store_id)
        return check

    def next_check(self, now: float) -> float:
        """When to call ``check`` next; infinity while no link is up."""
        due = float("inf")
        for peer in self._peers.values():
            if peer.connected:
                due = min(due, peer.sent_at + self.heartbeat_s)
                if not peer.silent:
                    due = min(due, max(peer.active_at + self.silence_s, self._judge_at))
        self._expected_at = due = max(due, now + self.heartbeat_s * TOGETHER)
        return due

    def validate(self) -> None:
        for store_id, peer in self._peers.items():
            assert peer.connected or not peer.silent, f"store {store_id}: silent without a stream"
