"""The network under the simulated gRPC: hosts, ports, connections, and what goes wrong with them.

Guarantee: on one connection each direction is a pipe, as TCP's: frames arrive in order, each once, until the connection ends; each end
learns of an end at its own time, or never while nothing gets through.  A frame that cannot get through is not lost: it waits, as what TCP
sends again, and arrives when it can if its connection still stands then.

A ``Node`` is a process in the network.  One that is ``frozen`` (SIGSTOP, a suspended machine) answers no pings; one whose event loop alone
stands still does, as gRPC's own threads would.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from tests.simulation.loop import SimulatedLoop
from tests.simulation.scheduler import Scheduler

Frame = tuple[Any, ...]
Direction = tuple[str, str]  # host to host
REPEAT_S = 0.2  # until TCP tries again what did not get through
EPHEMERAL_FIRST = 30_000


class PortTakenInSimulation(OSError):
    """Somebody on this host has the port."""


class Receiver(Protocol):
    """What an end of a connection belongs to; called on the loop of its process."""

    def frame(self, end: End, frame: Frame) -> None: ...

    def broken(self, end: End, why: str) -> None:
        """The connection is over; said once, and not for an end that was closed here."""
        ...


class Listener(Protocol):
    """Who takes connections to a port: a server."""

    def accept(self, end: End) -> Receiver: ...


class End:
    """One side of a connection."""

    __slots__ = ("arrives_at", "held", "keepalive_s", "node", "open", "peer", "receiver")

    def __init__(self, node: Node, keepalive_s: float) -> None:
        self.node = node
        self.open = True
        self.keepalive_s = keepalive_s
        self.arrives_at = 0.0  # when the newest frame to this end does
        self.held: list[Frame] = []  # frames from this end that do not get through now
        self.peer: End = self
        self.receiver: Receiver | None = None

    def send(self, *frame: Any) -> None:
        """To the other end, if this one is open."""
        if self.open:
            self.node.network.carry(self, frame)

    def close(self, why: str = "Socket closed") -> None:
        """Ends the connection from this side; the other one hears of it, or finds out."""
        if self.open:
            network = self.node.network
            if network.reaches(self.node.host, self.peer.node.host):
                self.send("end", why)
            else:
                network.expect_silence(self, lambda: True)
            self._forget()

    def abort(self, why: str) -> None:
        """This side gives the connection up."""
        if self.open:
            self.close(why)
            if self.receiver is not None:
                self.receiver.broken(self, why)

    def receive(self, frame: Frame) -> None:
        if not self.open:
            return
        if frame[0] == "end":
            self.fail(frame[1])
        elif self.receiver is not None:
            self.receiver.frame(self, frame)

    def fail(self, why: str) -> None:
        """This side learns that the connection is over."""
        if self.open:
            self._forget()
            if self.receiver is not None:
                self.receiver.broken(self, why)

    def _forget(self) -> None:
        self.open = False
        self.held.clear()
        self.node.ends.pop(self, None)


class Node:
    """A process in the network, under the name of its host."""

    def __init__(self, network: Network, host: str, loop: SimulatedLoop) -> None:
        self.network = network
        self.host = host
        self.loop = loop
        self.alive = True
        self.frozen = False
        self.ports: dict[int, Listener | None] = {}  # None: bound, not listening
        self.ends: dict[End, None] = {}
        self._last_port = EPHEMERAL_FIRST

    def reserve(self, port: int) -> int:
        """The port, bound; 0: some free one.  What is bound and does not listen may be bound again."""
        if port == 0:
            self._last_port += 1
            while self._last_port in self.ports:
                self._last_port += 1
            port = self._last_port
        elif self.ports.get(port) is not None:
            raise PortTakenInSimulation(f"{self.host}:{port}")
        self.ports[port] = None
        return port

    def listen(self, port: int, listener: Listener) -> None:
        self.ports[port] = listener
        self.network.listening(self, port)

    def listens(self, port: int) -> bool:
        return self.ports.get(port) is not None

    def release(self, port: int) -> None:
        self.network.released(self, port)
        self.ports.pop(port, None)

    def freeze(self) -> None:
        """Nothing of this process runs, its threads included."""
        self.frozen = True
        self.loop.pause()
        for end in self.ends:
            self.network.expect_silence(end, lambda: self.frozen)

    def thaw(self) -> None:
        self.frozen = False
        self.loop.resume()

    def end(self, silently: bool = False) -> None:
        """The process is no more.  ``silently``: nor is its machine, so that nobody is told."""
        self.alive = False
        self.ports.clear()
        for end in list(self.ends):
            if silently:
                self.network.expect_silence(end, lambda: True)
                end.open = False
            else:
                end.close()
        self.ends.clear()


class Network:
    """All of it.  ``cut`` counts the faults that act on a direction; ``slow`` multiplies its delay."""

    def __init__(self, scheduler: Scheduler, rng: random.Random) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.nodes: dict[str, Node] = {}  # by host: the process that runs there
        self.dark: set[str] = set()  # hosts without power: whoever dials them hears nothing
        self.cut: Counter[Direction] = Counter()
        self.slow: dict[Direction, float] = {}
        self.refusing: set[Direction] = set()  # whose connections something on the way refuses
        self.delay_s = 0.0005
        self.hiccup_share = 0.0
        self.frames = 0
        self.carried: Callable[[End, Frame, float | None], None] | None = (
            None  # told of each frame, and when it arrives; None: held
        )
        self.listening: Callable[[Node, int], None] = lambda node, port: None  # told of each port that opens
        self.released: Callable[[Node, int], None] = lambda node, port: None  # and of each that is about to close
        self._epochs: Counter[Direction] = Counter()
        self._any_cut = False

    def join(self, host: str, loop: SimulatedLoop) -> Node:
        """The process that runs on ``host`` from now on."""
        node = self.nodes[host] = Node(self, host, loop)
        self.dark.discard(host)
        return node

    # --- faults -------------------------------------------------------------------------------------------------------

    def cut_direction(self, source: str, target: str) -> None:
        """Nothing of ``source`` reaches ``target`` until ``heal_direction``, as often as it was cut."""
        self.cut[source, target] += 1
        self._epochs[source, target] += 1
        self._any_cut = True
        epoch = self._epochs[source, target]
        for end in self._ends_between(source, target):
            self.expect_silence(end, lambda: self.cut[source, target] > 0 and self._epochs[source, target] == epoch)

    def heal_direction(self, source: str, target: str) -> None:
        self.cut[source, target] -= 1
        if self.cut[source, target] > 0:
            return
        del self.cut[source, target]
        self._epochs[source, target] += 1
        self._any_cut = bool(self.cut)
        node = self.nodes.get(source)
        for end in list(node.ends) if node is not None else []:
            if end.held and end.peer.node.host == target:
                held, end.held = end.held, []
                for frame in held:
                    self._send(end, frame, self.rng.random() * REPEAT_S)

    def break_connections(self, a: str, b: str) -> None:
        """Every connection between the two is reset; what is under way is lost."""
        for end in self._ends_between(a, b):
            peer = end.peer
            for side in (end, peer):
                if side.open:
                    self.scheduler.after(self.delay(a, b), side.node.loop.arrive, side.fail, "Connection reset by peer")
                    side.held.clear()

    def expect_silence(self, end: End, silent: Callable[[], bool]) -> None:
        """The pings of both ends find out if ``silent`` lasts."""
        for side in (end, end.peer):
            after_s = side.keepalive_s * (1 + self.rng.random())
            self.scheduler.after(after_s, self._find_silence, side, silent)

    def _find_silence(self, end: End, silent: Callable[[], bool]) -> None:
        if end.open and end.node.alive and silent():
            end.node.loop.arrive(end.abort, "ping timeout")

    def _ends_between(self, a: str, b: str) -> list[End]:
        node = self.nodes.get(a)
        return [end for end in node.ends if end.peer.node.host == b] if node is not None else []

    # --- connections --------------------------------------------------------------------------------------------------

    def reaches(self, source: str, target: str) -> bool:
        """Whether anything gets from one to the other."""
        return not self._any_cut or not self.cut.get((source, target))

    def delay(self, source: str, target: str) -> float:
        """Of one frame."""
        rng = self.rng
        if source == target:
            return 20e-6
        if self.hiccup_share and rng.random() < self.hiccup_share:
            return rng.random() * 0.3
        delay = self.delay_s * (0.5 + rng.random())
        return delay * self.slow.get((source, target), 1.0) if self.slow else delay

    def dial(self, node: Node, endpoint: str, keepalive_s: float, done: Callable[[End | None, str], None]) -> None:
        """Opens a connection; ``done`` is called on the dialler's loop with its end, or None and why not, or never."""
        host, _, port = endpoint.rpartition(":")
        if not port.isdigit():
            node.loop.call_soon(done, None, f"{endpoint} is no address")
            return
        self._syn(node, host, int(port), keepalive_s, done)

    def _syn(
        self, node: Node, host: str, port: int, keepalive_s: float, done: Callable[[End | None, str], None]
    ) -> None:
        if not node.alive or not self.reaches(node.host, host):
            return
        self.scheduler.after(self.delay(node.host, host), self._arrived, node, host, port, keepalive_s, done)

    def _arrived(
        self, node: Node, host: str, port: int, keepalive_s: float, done: Callable[[End | None, str], None]
    ) -> None:
        if not node.alive or host in self.dark or not self.reaches(host, node.host):
            return
        back_s = self.delay(host, node.host)
        target = self.nodes.get(host)
        listener = target.ports.get(port) if target is not None and target.alive else None
        if target is None or listener is None or (node.host, host) in self.refusing:
            self.scheduler.after(back_s, node.loop.arrive, done, None, "Connection refused")
            return
        if target.frozen:  # the system takes it, the process does not
            return
        mine, theirs = End(node, keepalive_s), End(target, SERVER_KEEPALIVE_S)
        mine.peer, theirs.peer = theirs, mine
        target.ends[theirs] = None
        node.ends[mine] = None
        theirs.receiver = listener.accept(theirs)
        mine.arrives_at = self.scheduler.now + back_s
        self.scheduler.at(mine.arrives_at, node.loop.arrive, done, mine, "")

    def knock(self, node: Node, endpoint: str, done: Callable[[bool], None]) -> None:
        """Whether somebody listens there; ``done`` is never called if nothing is heard.  A frozen process's port is open all the same."""
        host, _, port = endpoint.rpartition(":")

        def arrived() -> None:
            if host in self.dark or not self.reaches(host, node.host):
                return
            target = self.nodes.get(host)
            listens = target is not None and target.alive and target.ports.get(int(port)) is not None
            listens = listens and (node.host, host) not in self.refusing
            self.scheduler.after(self.delay(host, node.host), node.loop.arrive, done, listens)

        if self.reaches(node.host, host):
            self.scheduler.after(self.delay(node.host, host), arrived)

    def carry(self, end: End, frame: Frame) -> None:
        self.frames += 1
        if (self._any_cut and self.cut.get((end.node.host, end.peer.node.host))) or end.held:
            end.held.append(frame)
            if self.carried is not None:
                self.carried(end, frame, None)
        else:
            self._send(end, frame, 0.0)

    def _send(self, end: End, frame: Frame, later_s: float) -> None:
        peer = end.peer
        at = self.scheduler.now + self.delay(end.node.host, peer.node.host) + later_s
        if at <= peer.arrives_at:
            at = peer.arrives_at
        peer.arrives_at = at
        self.scheduler.at(at, self._deliver, peer, frame)
        if self.carried is not None:
            self.carried(end, frame, at)

    def _deliver(self, end: End, frame: Frame) -> None:
        node = end.node
        if node.alive:
            node.loop.arrive(end.receive, frame)
        elif frame[0] != "end" and node.host not in self.dark:
            self._refuse(end.peer)

    def _refuse(self, end: End) -> None:
        """What was sent to a process that is gone is answered by its system."""
        if end.open and self.reaches(end.peer.node.host, end.node.host):
            delay_s = self.delay(end.peer.node.host, end.node.host)
            self.scheduler.after(delay_s, end.node.loop.arrive, end.fail, "Connection reset by peer")


SERVER_KEEPALIVE_S = 5.0
