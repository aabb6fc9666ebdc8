"""A process that runs PySyncObj untouched: its journal on a disk that never syncs, its transport on our links."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.simulation.checks import Violation
from tests.simulation.loop import Latency, SimulatedLoop
from tests.simulation.network import ProcessLinks, Stream

if TYPE_CHECKING:
    from tests.simulation.stock import StockWorld

TICK_S = 0.05  # how long the library's own loop waits for something to read
clock: list[Callable[[], float]] = [lambda: 0.0]
"""Of the process that runs now: the library has one for all."""


class StockDisk:
    """What a FileJournal has written: changes in order, all in the system's cache."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, Any]] = []
        self.entries: list[tuple[bytes, int, int]] = []
        self.meta: dict[str, Any] = {}

    def change(self, kind: str, what: Any) -> None:
        self.changes.append((kind, what))
        self._carry_out(kind, what)

    def _carry_out(self, kind: str, what: Any) -> None:
        if kind == "add":
            self.entries.append(what)
        elif kind == "delete":
            del self.entries[what:]
        else:
            self.meta = what

    def lose_power(self, rng: random.Random) -> None:
        kept = self.changes[: rng.randint(0, len(self.changes))]
        self.changes, self.entries, self.meta = [], [], {}
        for kind, what in kept:
            self.change(kind, what)


class FileLikeJournal(Journal):  # type: ignore[misc]
    """FileJournal's behaviour on a simulated disk."""

    def __init__(self, disk: StockDisk, loop: SimulatedLoop) -> None:
        self._disk = disk
        self._loop = loop
        self._meta = dict(disk.meta)
        self._meta_saved = True

    def _change(self, kind: str, what: Any) -> None:
        if self._loop.effect():
            self._disk.change(kind, what)

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._change("add", (command, idx, term))

    def clear(self) -> None:
        self._change("delete", 0)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        self._change("delete", entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:
        raise AssertionError("nothing is compacted here")

    def __getitem__(self, item: Any) -> Any:
        return self._disk.entries[item]

    def __len__(self) -> int:
        return len(self._disk.entries)

    def _destroy(self) -> None:
        return None

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        self._meta["commit"] = raftCommitIndex
        self._meta_saved = False

    def getRaftCommitIndex(self) -> int:
        return int(self._meta.get("commit", 1))

    def setCurrentTerm(self, term: int, votedForNodeId: Any) -> None:
        self._meta.update(term=term, vote=votedForNodeId)
        self._save()

    def getCurrentTerm(self) -> int:
        return int(self._meta.get("term", 0))

    def getVotedForNodeId(self) -> Any:
        return self._meta.get("vote")

    def onOneSecondTimer(self) -> None:
        if not self._meta_saved:
            self._save()

    def _save(self) -> None:
        self._change("meta", dict(self._meta))
        self._meta_saved = True


class NoPoller:
    def poll(self, timeout: float) -> None:
        return None


class StockTransport(Transport):  # type: ignore[misc]
    ready = True

    def __init__(self, links: StockLinks) -> None:
        super().__init__(None, None, None)
        self._links = links

    def send(self, node: Node, message: Any) -> bool:
        return self._links.say(node.id, message)

    def destroy(self) -> None:
        return None


class ReplicatedList(SyncObj):  # type: ignore[misc]
    """A replicated list."""

    def __init__(
        self, process: StockProcess, own: int, others: list[int], conf: SyncObjConf, transport: Transport
    ) -> None:
        self.applied: list[bytes] = []
        self._process = process
        super().__init__(Node(own), [Node(o) for o in others], conf, transport=transport)

    @replicated  # type: ignore[untyped-decorator]
    def put(self, payload: bytes) -> int:
        self.applied.append(payload)
        self._process.world.applied(self._process, len(self.applied) - 1, payload)
        return len(self.applied)


class StockLinks(ProcessLinks):
    """Pickles in place of protobuf, and the library's transport in place of a registry."""

    transport: StockTransport

    def say(self, to: int, message: Any) -> bool:
        if to not in self._streams or not self._process.loop.effect():
            return False
        self._network.carry(self._streams[to], self._store, to, [pickle.dumps(message)])
        return True

    def uses(self, store_id: int) -> bool:
        return True

    def opened(self, peer: int, stream: Stream) -> None:
        clock[0] = self._process.loop.time
        if not stream.alive:
            return
        if peer in self._streams:
            self.closed(peer, self._streams[peer])
        self._streams[peer] = stream
        self.transport._onNodeConnected(Node(peer))

    def closed(self, peer: int, stream: Stream) -> None:
        clock[0] = self._process.loop.time
        if self._streams.get(peer) is stream:
            del self._streams[peer]
            self.transport._onNodeDisconnected(Node(peer))

    def refused(self, peer: int) -> None:
        """The library takes no hints."""

    def read(self) -> None:
        clock[0] = self._process.loop.time
        sender, stream, frame = self.unread.popleft()
        if self._streams.get(sender) is stream:
            for data in frame:
                self.transport._onMessageReceived(Node(sender), pickle.loads(data))
            self._process.tick_soon()  # type: ignore[attr-defined]


class StockProcess:
    """What faults know of a process, and the library's loop in it."""

    registry = None

    def __init__(self, world: StockWorld, store: StockStore) -> None:
        self.world, self.store = world, store
        rng = random.Random(world.rng.getrandbits(64))
        died = lambda: world.kill(store, "fuse")  # noqa: E731
        self.loop = SimulatedLoop(world.scheduler, rng, store.latency, self._look, world.unhandled, died, lambda: None)
        self.links = StockLinks(world.network, self)  # type: ignore[arg-type]
        self.links.transport = transport = StockTransport(self.links)
        self.links.alive = True
        clock[0] = self.loop.time
        others = [i for i in world.ids if i != store.id]
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=world.batch,
            appendEntriesBatchSizeBytes=world.batch_bytes,
            commandsWaitLeader=False,
            logCompactionMinEntries=1 << 40,
            logCompactionMinTime=1 << 40,
            journalFile=FileLikeJournal(store.disk, self.loop),
            pollerType="none",
            useFork=False,
        )
        self.replica = ReplicatedList(self, store.id, others, conf, transport)
        self.group = self.replica
        self._ticking = False
        self._led_term = 0
        self.loop.call_soon(self._tick)

    def tick_soon(self) -> None:
        if not self._ticking:
            self._ticking = True
            self.loop.call_soon(self._tick_once)

    def _tick_once(self) -> None:
        self._ticking = False
        clock[0] = self.loop.time
        self.replica.doTick(0.0)

    def _tick(self) -> None:
        self._tick_once()
        self.loop.call_later(TICK_S, self._tick)

    def _look(self) -> None:
        replica, term = self.replica, int(self.replica.raftCurrentTerm)
        if replica._isLeader() and term != self._led_term:
            self._led_term = term
            other = self.world.leaders.setdefault(term, self.store.id)
            if other != self.store.id:
                raise Violation("two leaders", f"{other} and {self.store.id} in term {term}")


class StockStore:
    def __init__(self, store_id: int, rng: random.Random) -> None:
        self.id = store_id
        self.disk = StockDisk()
        self.latency = Latency(rng)
        self.process: StockProcess | None = None
        self.power_fails = False
        self.down_s = 0.5
