"""What the product takes from its machine without asking by name: clocks, randomness, ids, who runs here.

Guarantee: while a run is under way, ``time``, ``random``, ``uuid``, ``secrets`` and the product's look at running processes answer from
the run: by the clock of the process that asks, and from the run's seed.  Other threads see the machine as it is.  Afterwards everything is
as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from filelock import Timeout

from stele.services import directory_lock
from stele.services import process as process_module
from stele.services.coordination import enrolment, incarnation

WALL_BASE_S = 1_700_000_000
_Random = random.Random


class Resident(Protocol):
    """The process that is running now."""

    host: str
    pid: int
    wall_offset_s: float

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...


class Machine(Protocol):
    """Who is where."""

    @property
    def now(self) -> float: ...

    def runs(self, host: str, pid: int) -> bool: ...


_working: list[Resident] = []  # whose thread works now


def resident() -> Resident | None:
    """Whose code runs, on its loop or on a thread; None: the simulator's own."""
    return getattr(asyncio._get_running_loop(), "resident", None) or (_working[-1] if _working else None)


@contextlib.contextmanager
def working(process: Resident) -> Iterator[None]:
    """What runs meanwhile is a thread of ``process``."""
    _working.append(process)
    try:
        yield
    finally:
        _working.pop()


def _locks_of(machine: Machine) -> type:
    """filelock's: a lock goes with the process that holds it."""
    held: dict[str, tuple[str, int]] = {}

    class Lock:
        def __init__(self, path: Path, **_: object) -> None:
            self._path = str(path)

        def acquire(self) -> None:
            holder = held.get(self._path)
            if holder is not None and machine.runs(*holder):
                raise Timeout(self._path)
            running = resident()
            held[self._path] = (running.host, running.pid) if running is not None else ("", 0)

        def release(self) -> None:
            held.pop(self._path, None)

    return Lock


@contextlib.contextmanager
def ambient(machine: Machine, rng: random.Random) -> Iterator[None]:
    """For as long as a run lasts."""
    ours = threading.get_ident()

    def here(answer: Callable[..., Any], otherwise: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: (answer if threading.get_ident() == ours else otherwise)(*given, **named)

    def monotonic() -> float:
        loop = (
            asyncio._get_running_loop()
        )  # what is asked most often is answered first; other threads have another loop, or none
        if loop is not None and hasattr(loop, "resident"):
            return loop.time()
        if threading.get_ident() != ours:
            return real_monotonic()
        running = resident()
        return running.loop.time() if running is not None else machine.now

    real_monotonic = time.monotonic

    def wall_ns() -> int:
        running = resident()
        offset_s = running.wall_offset_s if running is not None else 0.0
        return WALL_BASE_S * 1_000_000_000 + int((machine.now + offset_s) * 1e9)

    class Seeded(_Random):
        """From the run's seed where none is given."""

        def __init__(self, seed: Any = None) -> None:
            super().__init__(rng.getrandbits(64) if seed is None and threading.get_ident() == ours else seed)

    def getpid() -> int:
        running = resident()
        return running.pid if running is not None else 1

    def this_machine() -> str:
        running = resident()
        return running.host if running is not None else ""

    def started(pid: int) -> int | None:
        return pid if machine.runs(this_machine(), pid) else None

    def uuid4() -> uuid.UUID:
        return uuid.UUID(int=rng.getrandbits(128), version=4)

    replaced: list[tuple[Any, str, Any]] = [
        (time, "monotonic", monotonic),
        (time, "perf_counter", here(monotonic, time.perf_counter)),
        (time, "time_ns", here(wall_ns, time.time_ns)),
        (time, "time", here(lambda: wall_ns() / 1e9, time.time)),
        (random, "Random", Seeded),
        (uuid, "uuid4", here(uuid4, uuid.uuid4)),
        (secrets, "randbits", here(rng.getrandbits, secrets.randbits)),
        (secrets, "token_hex", here(lambda size=32: rng.randbytes(size).hex(), secrets.token_hex)),
        (os, "getpid", here(getpid, os.getpid)),
        (incarnation, "machine", this_machine),
        (incarnation, "started", started),
        (enrolment, "version", lambda _: "simulated"),
        (process_module, "_report", lambda *_: None),
        (directory_lock, "FileLock", _locks_of(machine)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    state = random.getstate()
    random.seed(rng.getrandbits(64))
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        random.setstate(state)
