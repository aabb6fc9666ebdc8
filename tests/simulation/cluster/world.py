"""One run: a whole cluster under virtual time, a workload, a list of faults, and what must hold all along.

Guarantee: a run is a function of its options.  The same seed gives the same run, event for event, in any process that hashes strings alike
(PYTHONHASHSEED=0).

    World(Options(seed=7)).run()        raises Violation
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from stele.broker.role import Broker
from stele.datanode.role import Datanode
from stele.nameserver.role import Nameserver
from stele.services.config import BrokerConfig, DatanodeConfig, NameserverConfig
from stele.services.errors import SteleError, StoreTombstone
from stele.services.process import Runtime
from tests.simulation.checks import Violation
from tests.simulation.cluster import operations
from tests.simulation.cluster.ambient import ambient, resident
from tests.simulation.cluster.applied import Applied
from tests.simulation.cluster.bounds import Bounds
from tests.simulation.cluster.calls import Calls
from tests.simulation.cluster.checks import Checks
from tests.simulation.cluster.disk import Volume, datanode_parts
from tests.simulation.cluster.durable import Durable
from tests.simulation.cluster.exact import ExactStrike
from tests.simulation.cluster.lines import Lines
from tests.simulation.cluster.ordered import Ordered
from tests.simulation.cluster.plan import EXACT, KINDS, OLDER, Hosts, choose_exact, choose_kinds, exact, plan
from tests.simulation.cluster.pressure import Pressure
from tests.simulation.cluster.process import Guest, Process, Server
from tests.simulation.cluster.quiet import Quiet
from tests.simulation.cluster.redelivered import Redelivered
from tests.simulation.cluster.rpc.network import End, Network
from tests.simulation.cluster.settings import broker_settings, datanode_settings, nameserver_settings, node_settings
from tests.simulation.cluster.views import Views
from tests.simulation.cluster.watch import watched
from tests.simulation.cluster.workload import Workload
from tests.simulation.loop import generators_closed
from tests.simulation.pressure import PRESSURE_SHARE
from tests.simulation.scheduler import Scheduler
from tests.simulation.world import replay
from tests.simulation.zookeeper.ensemble import Ensemble
from tests.simulation.zookeeper.wire import answered, requested

PORT = 7000
RESTART_S = 1.0  # until an operator starts again what has ended
START_S = 30.0  # within which a cluster without faults has its topic
FIRST_FAULT_S = 1.0  # some strike before the cluster stands
WATCH_S = 0.25  # between two looks at the calls that are under way
LOOK_S = 0.05  # between two looks at whether it is as it should be
OPERATION_S = 120.0  # until what an operator asked for has come about
ENDING_S = 60.0  # until the calls that clients have under way have come to their deadlines
SETTLE_S = 20.0  # after the last fault, until everything is as it should be
TRACE_LINES_MAX = 200_000


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is made of."""

    seed: int = 0
    seconds: float = 0.0  # of faults; 0: drawn from the seed
    only_faults: tuple[int, ...] | None = None  # their numbers in the seed's plan
    kinds: tuple[str, ...] = ()  # of faults; none: drawn from the seed
    traced: bool = False
    mutants: tuple[str, ...] = ()  # of lab/mutants, wrong on purpose
    operations: bool = False  # a store is decommissioned meanwhile
    pressure: bool = False  # what bounds memory is small

    def world(self) -> World:
        return World(self)

    def replay(self) -> str:
        return replay("sim-cluster", self)


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a trace."""

    at: float
    what: str
    where: str  # host; "" the simulator
    text: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = " ".join([self.text, *(f"{k}={v}" for k, v in self.facts.items())]).strip()
        return f"{self.at:11.6f} {self.where:<4} {self.what} {shown}".rstrip()


class World:
    def __init__(self, options: Options) -> None:
        self.options = options
        rng = self.stream("world")
        self.seconds = drawn if not options.seconds and (drawn := rng.uniform(4.0, 10.0)) else options.seconds
        zookeepers = ("zk",) if rng.random() < 0.5 else ("zk1", "zk2", "zk3")
        self.hosts = Hosts(
            tuple(f"ns{n}" for n in range(1, 4)),
            tuple(f"dn{n}" for n in range(1, (5 if rng.random() < 0.2 else 4 if options.operations else 3) + 1)),
            tuple(f"br{n}" for n in range(1, rng.choice((2, 2, 3)) + 1)),
            tuple(f"cl{n}" for n in range(1, 4)),
            zookeepers,
        )
        drawing = self.stream("faults")
        self.kinds = list(options.kinds) or [*choose_kinds(drawing), *choose_exact(self.stream("exact kinds"))]
        if options.operations and not options.kinds:
            self.kinds = [kind for kind in self.kinds if kind in operations.KINDS] or ["reset"]
        usual = [kind for kind in self.kinds if kind in KINDS]
        self.faults = plan(drawing, self.hosts, FIRST_FAULT_S, self.seconds, usual) if usual else []
        several = [kind for kind in self.kinds if kind in EXACT]
        self.faults += exact(self.stream("exact faults"), self.hosts, self.seconds, several, len(self.faults))
        if options.only_faults is not None:
            self.faults = [fault for fault in self.faults if fault.number in options.only_faults]
        self.fault_counts: Counter[str] = Counter()
        self.wall_offsets: Counter[str] = Counter()  # seconds that a host's wall clock is ahead
        self.port = PORT
        self.scheduler = Scheduler()
        self.trace: list[Line] = []
        self.logged: Counter[tuple[str, str]] = Counter()  # (host, event) → lines
        self.network = Network(self.scheduler, self.stream("network"))
        self.zookeeper = Ensemble(
            self.scheduler,
            self.stream("zookeeper"),
            self.network,
            servers=len(zookeepers),
            say=lambda line: self.say("zookeeper", "zk", line),
        )
        self.servers: dict[str, Server] = {}
        self.doubles: list[Server] = []  # more processes of one name, for a while
        drawing_settings = self.stream("settings")
        self.settings = drawing_settings if drawing_settings.random() < 0.5 else None  # else everything as it comes
        self.mixed = not (options.kinds or options.operations)  # else what is asked for by name, and nothing else
        under_pressure = options.pressure or (self.mixed and self.stream("under pressure").random() < PRESSURE_SHARE)
        pressure = Pressure(under_pressure, self.stream("pressure"))
        self.volumes: dict[str, Volume] = {}  # of the datanodes
        self.still_disks: dict[str, list[Callable[[], object]]] = {}  # by host: what waits for one to go on
        self.crashes = self.stream("crashes")
        self.to_repair: set[str] = set()  # whose disks had errors: an operator looks after them in the end
        self._may_lose = ""  # the one whose disk may lose what was synced: others hold it
        self.healed = False
        self.buried: list[Guest] = []  # whatever the dead hold must not be collected while the run lasts
        self.calls = Calls(self)
        self.workload = Workload(self, self.stream("workload"))
        self.strike = ExactStrike(self)
        self.checks = Checks(self)
        self.applied, self.durable, self.views = Applied(self), Durable(self), Views(self)
        self.bounds, self.pressure = Bounds(self), pressure
        self.lines, self.quiet = Lines(self), Quiet(self)
        self.redelivered, self.ordered = Redelivered(self), Ordered(self)
        self.operator = operations.Operator(self, self.stream("operator")) if options.operations else None
        if options.traced:
            self.network.carried = self._carried
            self.zookeeper.carried = self._asked
        self._pids = 100
        self.task_numbers = itertools.count()
        self._error: Violation | None = None

    def stream(self, name: str) -> random.Random:
        """Randomness of its own for each purpose: a fault taken out of the plan changes little else."""
        return random.Random(f"{name} {self.options.seed}")

    # --- as a machine ---------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.scheduler.now

    @property
    def events(self) -> int:
        return self.scheduler.events

    def next_pid(self) -> int:
        self._pids += 1
        return self._pids

    def runs(self, host: str, pid: int) -> bool:
        running = self.guest(host)
        return running is not None and running.pid == pid

    # --- running --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The whole run.  Raises Violation; an exception that nobody was to see is one too."""
        try:
            with self.ambience():
                self._build()
                self._run()
        except Violation:
            raise
        except Exception as error:
            raise Violation("unhandled error", repr(error)) from error

    @contextlib.contextmanager
    def ambience(self) -> Iterator[None]:
        """Meanwhile the product takes this world for its machine, and the checks look on."""
        with (
            ambient(self, self.stream("ambient")),
            generators_closed(),
            watched(self),
            self.bounds.watched(),
            self.pressure.kept_up(),
        ):
            before = structlog.get_config()
            structlog.configure(
                processors=[self._log], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
            )
            try:
                yield
            finally:
                structlog.configure(**before)

    def _build(self) -> None:
        drawing_limits = self.stream("settings of nameservers") if self.settings is not None else None
        for name in self.hosts.nameservers:
            nameserver = NameserverConfig(
                **self._settings(name), **nameserver_settings(drawing_limits, self.options.operations)
            )
            self.servers[name] = Server(self, name, "nameserver", nameserver, Nameserver)
        for name in self.hosts.datanodes:
            self.volumes[name] = volume = Volume(name)
            volume.leaves = partial(self.checks.leaves, name)
            datanode = {**self._settings(name), **datanode_settings(self.settings)}
            config = DatanodeConfig(raft_port=PORT + 1, data_dir=name, disk_reserve_bytes=1 << 20, **datanode)
            self.servers[name] = Server(self, name, "datanode", config, self._datanode)
        for name in self.hosts.brokers:
            broker = BrokerConfig(**self._settings(name), **broker_settings(self.settings))
            broker = broker.model_copy(update=self.pressure.broker_settings())
            self.servers[name] = Server(self, name, "broker", broker, Broker)

    def _settings(self, name: str) -> dict[str, Any]:
        zookeeper = ",".join(f"{name}:2181" for name in self.hosts.zookeepers)
        given = {"name": name, "host": name, "zookeeper": zookeeper, "port": PORT, "admin_port": -1}
        return {**given, **node_settings(self.settings)}

    def _datanode(self, config: DatanodeConfig, runtime: Runtime) -> Datanode:
        return Datanode(config, runtime, datanode_parts(self.volumes[config.name], random.Random()))

    def _run(self) -> None:
        for server in self.servers.values():
            server.start()
        self.workload.start()
        if self.operator is not None:
            self.operator.start()
        for fault in self.faults:
            self.scheduler.at(fault.at, self.strike, fault)
        self.run_until(self.seconds)
        self._heal()
        if any(fault.kind in OLDER for fault in self.faults):
            self.workload.begin_recovery()
        self.must(lambda: self.workload.main is not None, START_S, "no topic")
        ledger = self.workload.ledger
        before = ledger.acknowledged
        self.must(lambda: ledger.acknowledged > before + 5, SETTLE_S, "nothing is writable")
        if self.operator is not None:
            self.must(self.operator.ended, OPERATION_S, "the decommission does not come to its end")
        self.workload.closing = True
        self.must(self.workload.drained, SETTLE_S, "not everything that was acknowledged is delivered")
        self.must(self.checks.registrations.owners_are_current, SETTLE_S, "an owner was given nothing anew")
        self.must(self._settled, SETTLE_S, "the replicas do not come to the same")
        reading = self.workload.begin_reading()
        self.must(reading.done, SETTLE_S, "the log cannot be read")
        assert self.workload.main is not None
        ledger.check_log(self.workload.main, reading.result(), self.workload.wanted)
        if self.quiet.wanted:
            self.must(self.workload.idle, ENDING_S, "what the clients began does not end")
            self.must(self.quiet.come, SETTLE_S, lambda: f"it is not quiet: {self.quiet.noise}")
        self.must(self.checks.copies_are_current, SETTLE_S, "a nameserver's copy of the records lacks what there is")
        for guest in [*(server.process for server in self.servers.values()), *self.workload.clients.values()]:
            self.checks.tasks(guest)

    def _heal(self) -> None:
        """The faults are over, and everything that is down starts again."""
        self.say("heal", "")
        self.healed = True
        self.strike.heal()
        self._repair()
        self.zookeeper.heal()
        for server in self.servers.values():
            server.start()

    def of_name(self, name: str) -> list[Server]:
        return [server for server in (*self.servers.values(), *self.doubles) if server.config.name == name]

    def double(self, of: str, name: str, host: str, again: bool = False) -> Server:
        """A server like ``of``, which has no disk, under ``name`` on a host of its own.  ``again``: an operator starts it again."""
        server = self.servers[of]
        config = server.config.model_copy(update={"name": name, "host": host})
        found = Server(self, host, server.kind, config, server.build)
        self.doubles.append(found)
        found.start()
        found.wanted = again
        return found

    def may_lose(self, host: str) -> bool:
        """As many disks may lose what was synced as a majority can do without."""
        self._may_lose = self._may_lose or host
        return self._may_lose == host

    def after_unless_healed(self, seconds: float, event: Callable[[], object]) -> None:
        self.scheduler.after(seconds, lambda: None if self.healed else event())

    def _repair(self) -> None:
        """Disks without errors again; their processes start anew on them."""
        for volume in self.volumes.values():
            volume.heal()
            volume.read_only, volume.capacity_bytes = False, 1 << 40
        for host in sorted(self.to_repair):
            self.servers[host].kill(0.05, "repair", power=True)

    def _settled(self) -> bool:
        """Every server is ready, and the replicas of each of the main topic's partitions hold the same."""
        groups = self.workload.groups()
        ends: dict[int, set[tuple[int, int]]] = {}
        replicas: Counter[int] = Counter()
        for server in self.servers.values():
            process = server.process
            if not server.wanted:
                continue
            if process is None or not process.runtime.ready.is_open:
                return False
            if server.kind == "datanode" and hasattr(process.role, "store"):
                for group in process.role.store.registry.groups():
                    if group.group_id not in groups:
                        continue
                    ends.setdefault(group.group_id, set()).add((group.last_index, group.applied_index))
                    replicas[group.group_id] += 1
        return all(len(ends.get(g, ())) == 1 and replicas[g] == 3 for g in groups)

    def guest(self, host: str) -> Guest | None:
        """Who runs there now."""
        server = self.servers.get(host) or next((d for d in self.doubles if d.name == host), None)
        return server.process if server is not None else self.workload.clients.get(host)

    def run_until(self, end: float) -> None:
        while self._error is None:
            self.scheduler.run_until(min(end, self.now + WATCH_S))
            self.calls.look()
            if self.now >= end:
                break
        if self._error is not None:
            raise self._error

    def must(self, done: Callable[[], bool], within_s: float, otherwise: str | Callable[[], str]) -> None:
        end = self.now + within_s
        while not done() and self.now < end:
            self.run_until(min(end, self.now + LOOK_S))
        if not done():
            what = otherwise if isinstance(otherwise, str) else otherwise()
            raise Violation("liveness", f"{what} within {within_s:g} s ({self._state()})")

    def _state(self) -> str:
        """Of every server, in few words."""
        shown = []
        for name, server in self.servers.items():
            process = server.process
            ready = "down" if process is None else "ready" if process.runtime.ready.is_open else "not ready"
            if process is not None and server.kind == "datanode" and hasattr(process.role, "store"):
                groups = process.role.store.registry.groups()
                ready += " " + " ".join(
                    f"{g.group_id}:{g.state}/{g.term}@{g.applied_index}of{g.last_index}" for g in groups
                )
            shown.append(f"{name} {ready}")
        return ", ".join(shown)

    # --- what processes tell --------------------------------------------------------------------------------------------

    def unhandled(self, guest: Guest, error: BaseException | str) -> None:
        if self._error is None:
            if isinstance(error, Violation):
                self._error = error
            else:
                self._error = Violation("unhandled error", f"on {guest.host}: {error!r}")
                self._error.__cause__ = error if isinstance(error, BaseException) else None
            self.scheduler.stop()

    def violated(self, kind: str, what: str) -> None:
        """A check that is made in the midst of things has failed: the run ends."""
        self._error = self._error or Violation(kind, what)
        self.scheduler.stop()

    def exited(self, server: Server, status: int, failure: SteleError | None) -> None:
        self.checks.exited(server, status, failure)
        if isinstance(failure, StoreTombstone):  # whoever runs it does not start it again
            server.wanted = False
        self.scheduler.after(RESTART_S, server.start)

    def bury(self, process: Process) -> None:
        self.buried.append(process)

    # --- the trace ------------------------------------------------------------------------------------------------------

    def say(self, what: str, where: str, text: str = "", **facts: Any) -> None:
        self._write(what, where, text, facts)

    def _write(self, what: str, where: str, text: str, facts: dict[str, Any]) -> None:
        if self.options.traced and len(self.trace) < TRACE_LINES_MAX:
            self.trace.append(Line(self.now, what, where, text, facts))

    def _carried(self, end: End, frame: tuple[Any, ...], at: float | None) -> None:
        self._sent(end.node.host, end.peer.node.host, _short(frame), at)

    def _asked(self, sender: str, to: str, what: Any, at: float) -> None:
        text = answered(what) if isinstance(what, bytes) else requested(what)
        if text:
            self._sent(sender, to, text, at)

    def _sent(self, sender: str, to: str, text: str, at: float | None) -> None:
        """``at``: when it arrives; None: it is held, because of a cut."""
        self.say("message", sender, text, to=to, arrives="held" if at is None else round(at, 6))

    def _log(self, _logger: Any, level: str, event: dict[str, Any]) -> Any:
        running = resident()
        where = running.host if running is not None else ""
        name = str(event.pop("event"))
        if isinstance(running, Process):
            self._told(running, name, event)
        self.logged[where, name] += 1
        self.lines.wrote(where, running.pid if running is not None else 0, name, event)
        self.quiet.logged(where, level, name)
        text = ""
        if "exc_info" in event and self.options.traced:
            shown = structlog.processors.format_exc_info(None, "", dict(event))
            text = str(shown["exception"])
        self._write(name if level == "info" else f"{level}: {name}", where, text, event)
        raise structlog.DropEvent

    def _told(self, process: Process, name: str, facts: dict[str, Any]) -> None:
        if name == "process_ready":
            self.checks.registrations.ready(process)
        elif name == "member_unregister_unknown":
            self.checks.registrations.unanswered(process)
        elif name == "raft_state" and facts["new"] == "leader":
            self.checks.registrations.leads(process, facts["group"])

    def counted(self) -> dict[str, int]:
        """What was done in this run, for the totals."""
        ledger = self.workload.ledger
        return {
            "acknowledged messages": ledger.acknowledged,
            "definite errors": ledger.definite,
            "indefinite errors": ledger.indefinite,
            "deliveries": ledger.deliveries,
            "redeliveries": ledger.redeliveries,
            "majorities looked at": self.durable.checked,
            "views that went back": self.views.went_back,
            "topics": len(ledger.topics),
            "runs under pressure": self.pressure.wanted,
            **self.workload.counted(),
            "starts of processes": sum(server.starts for server in self.servers.values()),
            "zookeeper transactions": len(self.zookeeper.log),
        }

    def nearest(self) -> dict[str, float]:
        """How near what is bounded came to its bound: 1.0 is at it."""
        calls = {f"time of a {what}": share for what, share in self.calls.slowest.items()}
        return {**self.bounds.nearest, **calls}

    def digest(self) -> str:
        """Of everything that was traced: equal runs have equal digests."""
        found = hashlib.sha256("\n".join(map(str, self.trace)).encode())
        found.update(repr((self.scheduler.events, sorted(self.logged.items()))).encode())
        return found.hexdigest()


def _short(frame: tuple[Any, ...]) -> str:
    """A frame in few words."""
    return " ".join(f"{len(part)} bytes" if isinstance(part, bytes) else str(part)[:40] for part in frame)
