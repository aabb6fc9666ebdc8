"""The network between simulated processes: `Links` of the Raft registry, as the transport keeps them.

Guarantee to the product: between "connected" and "disconnected" the messages to one peer arrive in order and at most once (unless the
fault ``duplicate`` says otherwise, which Raft must bear as well); what is in flight when a stream breaks is lost.  Messages are
serialised: no object is shared.  Streams are delayed, slow, cut in one direction or both; each side learns of a break at its own time.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from stele.services.errors import Unreachable
from stele.services.pb import raft_pb2 as pb
from stele.services.raft.liveness import Liveness
from stele.services.raft.registry import Registry
from stele.services.raft.storage import Entry
from tests.simulation.transfer import Transfer

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

SLOWEST_S = 3.0
Pair = tuple[int, int]


class Stream:
    """One connection between two processes."""

    __slots__ = ("alive", "arrives_at", "ends")

    def __init__(self, ends: dict[int, Process]) -> None:
        self.ends = ends
        self.alive = True
        self.arrives_at = dict.fromkeys(ends, 0.0)  # by receiver: when the newest frame does


class ProcessLinks:
    """What one process holds of the network: the product's transport, to its registry."""

    def __init__(self, network: Network, process: Process) -> None:
        self.alive = False
        self._network = network
        self._process = process
        self._store = process.store.id
        self._listener: Registry | None = None
        self._used: Counter[int] = Counter()
        self._streams: dict[int, Stream] = {}  # those that this side believes in
        self._queued: dict[int, list[bytes]] = {}
        self.read_in_handle = False
        self._liveness = Liveness(network.world.timing.heartbeat_s, network.world.timing.election_min_s)
        self._looking = False
        self.unread: deque[tuple[int, Stream, list[bytes]]] = deque()  # frames that have arrived and were not read

    def listen(self, listener: Registry) -> None:
        self._listener = listener

    def use(self, store_id: int) -> None:
        self._used[store_id] += 1
        if self._used[store_id] == 1:
            self._network.dial_soon(self._store, store_id)

    def release(self, store_id: int) -> None:
        self._used[store_id] -= 1
        if not self._used[store_id]:
            self._network.break_stream(self._store, store_id)

    def uses(self, store_id: int) -> bool:
        return self._used[store_id] > 0

    def is_connected(self, store_id: int) -> bool:
        return store_id in self._streams

    def last_active(self, store_id: int) -> float:
        return self._liveness.last_active(store_id)

    def send(self, to: int, message: pb.RaftMessage) -> None:
        if to in self._streams and self._process.loop.effect():
            self._queued.setdefault(to, []).append(message.SerializeToString())

    def flush(self) -> None:
        for to, frame in self._queued.items():
            stream = self._streams.get(to)
            if stream is not None:
                self._liveness.on_sent(to, self._process.loop.time())
                self._network.carry(stream, self._store, to, frame)
        self._queued.clear()

    def _look(self) -> None:
        """The one clockwork of all links: as the transport's."""
        self._looking = False
        check = self._liveness.check(self._process.loop.time())
        for store_id in check.greet:
            self._greet(store_id)
        for store_id in check.silent:
            if self._listener is not None:
                self._listener.peer_silent(store_id)
        self._look_next()

    def _greet(self, peer: int) -> None:
        self._network.carry(self._streams[peer], self._store, peer, [])

    def _forget_queued(self, peer: int) -> None:
        """What was queued for a stream that is gone."""
        self._queued.pop(peer, None)

    def _was_read(self, sender: int, stream: Stream, frame: list[bytes]) -> None:
        """By this side, which is what flow control goes by, if there is one (shared_links.py)."""

    def granted(self, peer: int, stream: Stream, size: int) -> None:
        """The other side has read so much."""

    def _look_next(self) -> None:
        if not self._looking:
            due = self._liveness.next_check(self._process.loop.time())
            if due != float("inf"):
                self._looking = True
                self._process.loop.call_at(due, self._look)

    async def fetch_snapshot(self, store_id: int, group_id: int, index: int, offset: int) -> AsyncIterator[bytes]:
        transfer = Transfer(self._network, self._process, store_id)
        try:
            transfer.ask(group_id, index, offset)
            while (chunk := await transfer.next()) is not None:
                yield chunk
        finally:
            transfer.over = True

    async def fetch_entries(self, store_id: int, group_id: int, first: int, last: int) -> list[Entry]:
        """Asked for once bytes have changed on a disk, which on the simulated one they do not."""
        raise Unreachable(f"store {store_id} is not asked for entries")

    # --- as things arrive, on the loop of the process -------------------------------------------------------------------

    def opened(self, peer: int, stream: Stream) -> None:
        if not stream.alive:
            return  # it broke before this side knew of it, and a newer one may be here already
        if peer in self._streams:  # the peer has dialled anew: the old stream is dead, whatever it looks like
            self.closed(peer, self._streams[peer])
        if self._listener is not None:
            self._streams[peer] = stream
            self._forget_queued(peer)
            self._liveness.connected(peer, self._process.loop.time())
            self._look_next()
            self._listener.peer_connected(peer)

    def closed(self, peer: int, stream: Stream) -> None:
        if self._streams.get(peer) is stream and self._listener is not None:
            del self._streams[peer]
            self._forget_queued(peer)
            self._liveness.disconnected(peer)
            self._listener.peer_disconnected(peer)

    def refused(self, peer: int) -> None:
        if peer not in self._streams and self._listener is not None:
            self._listener.peer_gone(peer)

    def read(self) -> None:
        """The oldest frame that has arrived, if its stream is still there."""
        sender, stream, frame = self.unread.popleft()
        self.read_in_handle = True
        if self._streams.get(sender) is not stream or self._listener is None:
            return
        network = self._network
        self._was_read(sender, stream, frame)
        if self._liveness.on_received(sender, self._process.loop.time()):
            self._listener.peer_active(sender)
        for data in frame:
            message = pb.RaftMessage.FromString(data)
            if network.world.trace is not None:
                network.world.say(f"{sender}->{self._store} {short(message)}")
            self._listener.deliver(sender, message)


class Network:
    """Every pair of stores has at most one stream.  ``blocked`` and ``cut`` count the faults that act on a pair or direction."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self._streams: dict[Pair, Stream] = {}
        self._last: dict[Pair, Stream] = {}
        self.blocked: Counter[Pair] = Counter()
        self.cut: Counter[Pair] = Counter()
        self.slow: dict[Pair, float] = {}
        self.held_up: dict[Pair, float] = {}  # seconds that everything takes
        self.delay_s = 0.001
        self.hiccup_share = 0.02
        self.duplicate_share = 0.0
        self.break_transfers_share = 0.0
        self.links: Callable[[Network, Process], ProcessLinks] = ProcessLinks

    def attach(self, process: Process) -> ProcessLinks:
        return self.links(self, process)

    # --- streams --------------------------------------------------------------------------------------------------------

    def dial_soon(self, a: int, b: int, within_s: float = 0.3) -> None:
        self.world.scheduler.after(self.rng.uniform(0.005, within_s), self._dial, _pair(a, b))

    def _dial(self, pair: Pair) -> None:
        if pair in self._streams or self.blocked[pair]:
            return
        ends: dict[int, Process] = {}
        for store in pair:
            process = self.world.stores[store].process
            if process is None or not process.links.alive:
                return
            ends[store] = process
        if not any(process.links.uses(pair[0] + pair[1] - store) for store, process in ends.items()):
            return
        stream = self._streams[pair] = self._last[pair] = Stream(ends)
        now = self.world.scheduler.now
        for store, peer in (pair, pair[::-1]):
            at = stream.arrives_at[store] = now + self.rng.expovariate(1 / self.delay_s)
            self.world.scheduler.at(at, self._open, stream, store, peer)

    def _open(self, stream: Stream, store: int, peer: int) -> None:
        process = stream.ends[store]
        process.loop.arrive(process.links.opened, peer, stream)

    def break_stream(self, a: int, b: int, gone: int = 0, redial: bool = True) -> None:
        """What is in flight is lost.  Each side learns of it at its own time, and that the other's process is ``gone``, if so."""
        pair = _pair(a, b)
        stream = self._streams.pop(pair, None)
        if stream is None:
            return
        stream.alive = False
        for store, peer in (pair, pair[::-1]):
            process = stream.ends[store]
            if process.loop.dead:
                continue
            noticed = self.world.scheduler.now + self.rng.expovariate(1 / 0.005)
            self.world.scheduler.at(noticed, process.loop.arrive, process.links.closed, peer, stream)
            if gone == peer and self.rng.random() < 0.7:
                self.world.scheduler.at(noticed + 0.002, process.loop.arrive, process.links.refused, peer)
        if redial:
            self.dial_soon(a, b)

    def block(self, pair: Pair) -> None:
        self.blocked[pair] += 1
        self.break_stream(*pair)

    def unblock(self, pair: Pair) -> None:
        self.blocked[pair] -= 1
        self.dial_soon(*pair)

    def process_started(self, store: int) -> None:
        """Whoever wants a stream to it has dialled in vain meanwhile and goes on dialling."""
        for peer in self.world.stores:
            if peer != store:
                self.dial_soon(store, peer)

    def process_ended(self, store: int) -> None:
        for peer in self.world.stores:
            if peer != store:
                self.break_stream(store, peer, gone=store)

    def delay(self) -> float:
        """Of one message on an ordinary link."""
        rng = self.rng
        return rng.random() * 0.5 if rng.random() < self.hiccup_share else rng.expovariate(1.0) * self.delay_s

    def reaches(self, sender: int, to: int) -> bool:
        """Whether bytes of a stream of their own get from one to the other now."""
        return not self.blocked[_pair(sender, to)] and not self.cut[sender, to] and not self.cut[to, sender]

    # --- frames -----------------------------------------------------------------------------------------------------------

    def carry(self, stream: Stream, sender: int, to: int, frame: list[bytes]) -> None:
        if not stream.alive or (self.cut and self.cut[sender, to]):
            return
        rng, now = self.rng, self.world.scheduler.now
        delay = self.delay()
        if self.slow:
            delay = min(delay * self.slow.get((sender, to), 1.0), SLOWEST_S)
        if self.held_up:
            delay += self.held_up.get((sender, to), 0.0)
        at = max(now + delay, stream.arrives_at[to] + 1e-6)
        stream.arrives_at[to] = at
        self.world.scheduler.at(at, self._arrive, stream, sender, to, frame)
        if self.duplicate_share and rng.random() < self.duplicate_share:
            stream.arrives_at[to] = at = at + rng.random() * 0.2
            self.world.scheduler.at(at, self._arrive, stream, sender, to, frame)

    def _arrive(self, stream: Stream, sender: int, to: int, frame: list[bytes]) -> None:
        process = stream.ends[to]
        if stream.alive and not process.loop.dead:
            process.links.unread.append((sender, stream, frame))
            process.loop.arrive(process.links.read)

    def grant(self, stream: Stream, reader: int, to: int, size: int) -> None:
        """``reader`` has read so much of what ``to`` sent, which learns it."""
        if stream.alive and not self.cut[reader, to]:
            process = stream.ends[to]
            self.world.scheduler.after(self.delay(), process.loop.arrive, process.links.granted, reader, stream, size)

    # --- the end of the faults ----------------------------------------------------------------------------------------------

    def heal(self) -> None:
        lossy = [pair for pair, count in self.cut.items() if count]
        self.cut.clear()
        self.blocked.clear()
        self.slow.clear()
        self.held_up.clear()
        self.hiccup_share = self.duplicate_share = self.break_transfers_share = 0.0
        for pair in lossy:
            self.break_stream(*pair)
        for pair in itertools.combinations(sorted(self.world.stores), 2):
            self.dial_soon(*pair)


def _pair(a: int, b: int) -> Pair:
    return (a, b) if a < b else (b, a)


def short(m: pb.RaftMessage) -> str:
    """A message in one line of a trace."""
    body = m.WhichOneof("body")
    inner = getattr(m, body)
    if body == "append_entries":
        first = inner.prev_log_index + 1
        span = f"{first}..{inner.prev_log_index + len(inner.payloads)}" if inner.payloads else "-"
        after = f"{inner.prev_log_index}/t{inner.prev_log_term}"
        return f"t{m.term} append #{inner.request} after {after} {span} commit {inner.commit_index}"
    return f"t{m.term} {body} " + str(inner).replace("\n", " ")
