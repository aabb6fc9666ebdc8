"""Links that several groups share, with the flow control of the transport: the product's lanes (services/raft/lanes.py) in front of a
stream that takes no more than its reader has read.

As in the transport a frame is taken from the lanes when the one before has left, turns are given then, and a stream that is asked to hold
more than ``QUEUE_BYTES_MAX`` is broken on purpose, which no run of the simulator may come to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from stele.services.pb import raft_pb2 as pb
from stele.services.raft import lanes, links, progress, replication
from tests.simulation import bounds
from tests.simulation.network import Network, ProcessLinks, Stream
from tests.simulation.pressure import KIB, Constant

if TYPE_CHECKING:
    from tests.simulation.process import Process

WINDOW_BYTES: Final = 4 * KIB  # that have left and are not read
CONSTANTS: Final = (
    # A 512th of what they are outside, so that a few groups that catch up fill a link; a queue holds less than eight of them may have in
    # flight, as outside.
    Constant("BATCH_BYTES_MAX", (replication, lanes), (2 * KIB,)),
    Constant("INFLIGHT_BYTES_MAX", (progress,), (16 * KIB,)),
    Constant("BULK_BYTES_MAX", (lanes,), (8 * KIB,)),
    Constant("FRAME_BYTES_MAX", (lanes,), (2 * KIB,)),
    Constant("QUEUE_BYTES_MAX", (lanes,), (128 * KIB,)),
    Constant("ENTRY_BYTES_MAX", (bounds,), (4 * KIB,)),
)


class _Lane:
    """One peer's link."""

    def __init__(self) -> None:
        self.waiting = links.Lanes()
        self.unread_bytes = 0

    def clear(self) -> None:
        self.waiting.clear()
        self.unread_bytes = 0


class SharedProcessLinks(ProcessLinks):
    def __init__(self, network: Network, process: Process) -> None:
        super().__init__(network, process)
        self._lanes: dict[int, _Lane] = {}
        self._touched: dict[int, None] = {}

    def _lane(self, peer: int) -> _Lane:
        return self._lanes.setdefault(peer, _Lane())

    def may_send(self, to: int, group_id: int, ahead_bytes: int) -> bool:
        return to not in self._streams or self._lane(to).waiting.may_send(group_id, ahead_bytes)

    def send(self, to: int, message: pb.RaftMessage) -> None:
        if to not in self._streams or not self._process.loop.effect():
            return
        self._touched[to] = None
        if not self._lane(to).waiting.put(message):
            self._network.world.violated(
                "link overflow", f"the link from store {self._store} to {to} holds all it may, and is to be broken"
            )

    def flush(self) -> None:
        for to in self._touched:
            self._write(to)
        self._touched.clear()

    def _write(self, to: int) -> None:
        """What the window lets leave."""
        lane, stream = self._lane(to), self._streams.get(to)
        while stream is not None and lane.unread_bytes < WINDOW_BYTES:
            messages = lane.waiting.take()
            for group_id in lane.waiting.next_turns():
                if self._listener is not None:
                    self._listener.turn(to, group_id)
            if not messages:
                return
            frame = [message.SerializeToString() for message in messages]
            lane.unread_bytes += _size(frame)
            self._liveness.on_sent(to, self._process.loop.time())
            self._network.carry(stream, self._store, to, frame)

    def _greet(self, peer: int) -> None:
        if self._lane(peer).unread_bytes < WINDOW_BYTES:  # else it waits behind what has not left
            super()._greet(peer)

    def _forget_queued(self, peer: int) -> None:
        self._lane(peer).clear()

    def _was_read(self, sender: int, stream: Stream, frame: list[bytes]) -> None:
        if frame:
            self._network.grant(stream, self._store, sender, _size(frame))

    def granted(self, peer: int, stream: Stream, size: int) -> None:
        if self._streams.get(peer) is stream:
            lane = self._lane(peer)
            lane.unread_bytes = max(0, lane.unread_bytes - size)  # a frame that arrives twice is read twice
            self._write(peer)


def _size(frame: list[bytes]) -> int:
    return sum(map(len, frame))
