"""The simulated ZooKeeper answers what a real one answers: the same random operations, played through the product's Session."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from kazoo.protocol.states import Callback, EventType, WatchedEvent

from stele.local.zookeeper import ZooKeeperServer
from stele.services.coordination.session import Session
from stele.services.coordination.znode import CheckOp, CreateOp, DeleteOp, Node, Op, SetOp, Stat
from stele.services.errors import SteleError
from tests.simulation.loop import Latency, SimulatedLoop
from tests.simulation.scheduler import Scheduler
from tests.simulation.zookeeper.client import LoopClock, clients_of
from tests.simulation.zookeeper.ensemble import Ensemble
from tests.support.zookeeper import server, unique_cluster_name

STEPS = 250
SEEDS = range(8)
SESSIONS = 3
TOP = "operations"  # of the cluster's own tree: nobody else writes there
PATHS = [f"{TOP}/{name}" for name in ("a", "b", "c", "a/x", "a/y", "b/x", "a/x/deep")]
TIMEOUT_S = 20.0
SIMULATED_S = 3600.0

Opening = Callable[[], Awaitable[Session]]
Play = Callable[[Opening], Coroutine[Any, Any, list[str]]]


@dataclass
class Script:
    """One random sequence of operations by several sessions, and what came of it, without times."""

    seed: int
    opening: Opening
    said: list[str] = field(default_factory=list)

    async def play(self) -> list[str]:
        self.rng = random.Random(self.seed)
        self.sessions: list[Session] = []
        self.owners: dict[int, int] = {0: 0}
        self.events: dict[int, list[str]] = {}
        self.known: list[str] = []
        for _ in range(SESSIONS):
            await self.open()
        created = await self.sessions[0].exists("cluster")
        assert created is not None
        await self.sessions[0].create(f"{TOP}/base", b"")
        base = await self.sessions[0].exists(f"{TOP}/base")
        assert base is not None
        self.base = base.czxid
        for step in range(STEPS):
            await self.step(step)
        for session in self.sessions:
            await session.close()
        return self.said

    async def open(self) -> None:
        session = await self.opening()
        self.sessions.append(session)
        self.owners[session.session_id] = len(self.owners)
        self.events[id(session)] = []

    # --- one step -----------------------------------------------------------------------------------------------------

    async def step(self, number: int) -> None:
        rng = self.rng
        session = rng.choice(self.sessions)
        who = self.owners[session.session_id]
        kind = rng.choices(("one", "burst", "end"), (8, 2, 0.4))[0]
        if kind == "end":
            self.sessions.remove(session)
            await session.close()
            answers = ["closed"]
            await self.open()
        elif kind == "burst":
            # Asked in one go, without waiting: they are carried out in this order.
            answers = list(await asyncio.gather(*(self.one(session) for _ in range(rng.randint(2, 6)))))
        else:
            answers = [await self.one(session)]
        self.said.append(f"{number} session {who} {kind}: " + "; ".join(answers))
        self.known += re.findall(rf"{TOP}/[a-z/]+-s-\d{{10}}", self.said[-1])
        for each in self.sessions:
            await self.settled(each)
            events = self.events[id(each)]
            if events:
                # The end of a session removes its nodes in no order that anybody promises.
                shown = sorted(events) if kind == "end" else events
                self.said.append(f"{number}   seen by {self.owners[each.session_id]}: {', '.join(shown)}")
                events.clear()

    async def settled(self, session: Session) -> None:
        """Every watch event that the server had for it has been handed to the loop."""
        await session.sync()
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def last(_: object) -> None:
            loop.call_soon_threadsafe(done.set_result, None)

        session._client.handler.dispatch_callback(Callback("watch", last, (None,)))
        await done

    def watch(self, session: Session) -> Callable[[WatchedEvent], None] | None:
        if self.rng.random() < 0.4:
            return None
        seen, loop = self.events[id(session)], asyncio.get_running_loop()

        def on_event(event: WatchedEvent) -> None:
            if event.type != EventType.NONE:
                loop.call_soon_threadsafe(seen.append, f"{event.type} {session.relative(event.path)}")

        return on_event

    async def one(self, session: Session) -> str:
        asked, request = self.request(session)
        try:
            answer = self.shown(await request)
        except SteleError as error:
            answer = f"{type(error).__name__}({error})"
        return f"{asked} -> {answer}"

    def request(self, session: Session) -> tuple[str, Coroutine[Any, Any, Any]]:
        rng, path = self.rng, self.path()
        match rng.choices(("create", "set", "delete", "get", "exists", "children", "commit"), (5, 3, 3, 3, 3, 3, 4))[0]:
            case "create":
                op = self.creation(path)
                return str(op), session.create(op.path, op.value, ephemeral=op.ephemeral, sequence=op.sequence)
            case "set":
                value, version = self.value(), self.version()
                return f"set {path} {value!r} {version}", session.set(path, value, version)
            case "delete":
                version = self.version()
                return f"delete {path} {version}", session.delete(path, version)
            case "get":
                watch = self.watch(session)
                return f"get {path} {watch is not None}", session.get(path, watch=watch)
            case "exists":
                watch = self.watch(session)
                return f"exists {path} {watch is not None}", session.exists(path, watch=watch)
            case "children":
                watch, path = self.watch(session), rng.choice((path, TOP))
                return f"children {path} {watch is not None}", session.children(path, watch=watch)
            case _:
                ops = [self.operation() for _ in range(rng.randint(1, 4))]
                return f"commit {ops}", session.commit(ops)

    def operation(self) -> Op:
        path = self.path()
        match self.rng.randrange(4):
            case 0:
                return self.creation(path)
            case 1:
                return SetOp(path, self.value(), self.version())
            case 2:
                return DeleteOp(path, self.version())
            case _:
                return CheckOp(path, self.version())

    def creation(self, path: str) -> CreateOp:
        rng = self.rng
        if rng.random() < 0.3:
            return CreateOp(f"{path}-s-", self.value(), ephemeral=rng.random() < 0.5, sequence=True)
        return CreateOp(path, self.value(), ephemeral=rng.random() < 0.3)

    def path(self) -> str:
        return self.rng.choice(self.known if self.known and self.rng.random() < 0.2 else PATHS)

    def value(self) -> bytes:
        return self.rng.choice((b"", b"1", b"22", b"a longer value"))

    def version(self) -> int:
        return self.rng.choice((-1, -1, 0, 1, 2))

    # --- answers ------------------------------------------------------------------------------------------------------

    def shown(self, answer: Any) -> str:
        match answer:
            case Stat():
                owner = self.owners[answer.ephemeral_owner]
                born, written = answer.czxid - self.base, answer.mzxid - self.base
                return f"v{answer.version} born {born} written {written} owner {owner} children {answer.children}"
            case Node():
                return f"{answer.value!r} {self.shown(answer.stat)}"
            case list():
                return "[" + ", ".join(map(self.shown, answer)) + "]"
            case str():
                return answer
            case _:
                return repr(answer)


# --- the two worlds -----------------------------------------------------------------------------------------------------------


async def really(seed: int, hosts: str) -> list[str]:
    cluster = unique_cluster_name()

    async def opening() -> Session:
        session = Session(hosts, cluster, TIMEOUT_S)
        await session.start(timeout_s=TIMEOUT_S)
        return session

    return await Script(seed, opening).play()


class _Process:
    host = "client"

    def __init__(self, scheduler: Scheduler, seed: int) -> None:
        rng = random.Random(f"process {seed}")
        self.failures: list[BaseException | str] = []
        self.loop = SimulatedLoop(
            scheduler, rng, Latency(rng), _nothing, self.failures.append, lambda: None, lambda: None
        )


def _nothing() -> None:
    """After each handle."""


def simulated(seed: int, servers: int = 1) -> list[str]:
    scheduler = Scheduler()
    process = _Process(scheduler, seed)
    ensemble = Ensemble(scheduler, random.Random(f"ensemble {seed}"), servers=servers)
    connect = clients_of(ensemble, process, random.Random(f"clients {seed}"))

    async def opening() -> Session:
        session = Session("zk", "simulated", TIMEOUT_S, LoopClock(process.loop), connect=connect)
        await session.start(timeout_s=TIMEOUT_S)
        return session

    playing = process.loop.create_task(Script(seed, opening).play())
    scheduler.run_until(SIMULATED_S, playing.done)
    assert not process.failures
    said: list[str] = playing.result()
    return said


@pytest.fixture(scope="module")
def quiet_zookeeper() -> Iterator[ZooKeeperServer]:
    """A server of these tests alone: zxids are compared, and a session that another test left behind takes one when it expires."""
    with server() as started:
        yield started


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_same_operations_come_to_the_same(seed: int, quiet_zookeeper: ZooKeeperServer) -> None:
    real = await really(seed, quiet_zookeeper.hosts)
    imitated = await asyncio.to_thread(simulated, seed)
    assert imitated == real


def test_a_run_is_a_function_of_its_seed() -> None:
    assert simulated(1) == simulated(1)
