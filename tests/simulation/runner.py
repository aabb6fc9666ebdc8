"""Many runs on all processors, added up: of one replicated group, or of a whole cluster.

Guarantee: what a run does depends on its seed alone, not on which process it falls to; an interrupted series reports what was done.
"""

from __future__ import annotations

import gc
import inspect
import logging
import multiprocessing
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, cast

import structlog

from tests.simulation.checks import Violation
from tests.simulation.mutants import switched

CHUNK_RUNS = 10


class Run(Protocol):
    """A world: what one run is made of, and what it came to."""

    @property
    def events(self) -> int: ...

    @property
    def now(self) -> float: ...

    @property
    def fault_counts(self) -> Counter[str]: ...

    @property
    def seconds(self) -> float: ...

    @property
    def faults(self) -> Sequence[Any]: ...

    @property
    def trace(self) -> Sequence[object] | None: ...

    def run(self) -> None:
        """Raises Violation."""
        ...

    def counted(self) -> dict[str, int]: ...

    def nearest(self) -> dict[str, float]:
        """Of what is bounded: the largest part of what may be there that was there."""
        ...


class Asked(Protocol):
    """Options: a frozen dataclass, of which ``seed`` is a field, as are ``only_faults``, ``seconds`` and ``traced``."""

    @property
    def seed(self) -> int: ...

    @property
    def mutants(self) -> tuple[str, ...]: ...

    def world(self) -> Run: ...

    def replay(self) -> str:
        """The command that shows it again."""
        ...


@dataclass
class Found:
    """A run that broke a property."""

    seed: int
    kind: str
    message: str


@dataclass
class Totals:
    """What a series of runs came to."""

    runs: int = 0
    simulated_s: float = 0.0
    events: int = 0
    cpu_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    nearest: dict[str, float] = field(default_factory=dict)
    violations: list[Found] = field(default_factory=list)

    def add(self, other: Totals) -> None:
        self.runs += other.runs
        self.simulated_s += other.simulated_s
        self.events += other.events
        self.cpu_s += other.cpu_s
        self.counts.update(other.counts)
        self.faults.update(other.faults)
        self._nearest(other.nearest)
        self.violations += other.violations

    def note(self, world: Run) -> None:
        self.runs += 1
        self.simulated_s += world.now
        self.events += world.events
        self.counts.update(world.counted())
        self.faults.update(world.fault_counts)
        self._nearest(world.nearest())

    def _nearest(self, found: dict[str, float]) -> None:
        for what, share in found.items():
            self.nearest[what] = max(self.nearest.get(what, 0.0), share)


def quiet() -> None:
    """No logging, and no word about coroutines that died with their processes: neither that they were never awaited nor what they raise
    when their memory is given back, long after their loop."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=RuntimeWarning, message=".*was never awaited")
    sys.unraisablehook = _unraisable


def _unraisable(unraisable: Any) -> None:
    if not inspect.iscoroutine(unraisable.object) and not inspect.isasyncgen(unraisable.object):
        sys.__unraisablehook__(unraisable)


def run_one(options: Asked, totals: Totals) -> Violation | None:
    """One run, noted in ``totals``."""
    started = time.process_time()
    world = options.world()
    violation: Violation | None = None
    with switched(options.mutants):
        try:
            world.run()
        except Violation as e:
            violation = e
            totals.violations.append(Found(options.seed, e.kind, str(e)))
    totals.note(world)
    totals.cpu_s += time.process_time() - started
    return violation


def run_seeds(options: Asked, seeds: Sequence[int], enough: Callable[[Totals], bool] = lambda totals: False) -> Totals:
    """The runs of ``seeds`` in this process; ends early when ``enough`` says so."""
    totals = Totals()
    with uncollected():
        for seed in seeds:
            found = run_one(_with(options, seed=seed), totals)
            started = time.process_time()
            release()
            totals.cpu_s += time.process_time() - started
            if found is not None and enough(totals):
                break
    return totals


@contextmanager
def uncollected() -> Iterator[None]:
    """Meanwhile nothing is collected but by ``release``: runs are faster, and alike."""
    enabled = gc.isenabled()
    gc.disable()
    release()
    gc.freeze()  # what was there before stays: no collection need look at it
    try:
        yield
    finally:
        gc.unfreeze()
        release()
        if enabled:
            gc.enable()


def release() -> None:
    """Gives back what ended runs held.  Coroutines that were under way are closed by a first pass, which keeps whatever they lead to."""
    gc.collect()
    gc.collect()


def _with(options: Asked, **changes: Any) -> Any:
    return replace(cast(Any, options), **changes)


def _work(orders: Connection, options: Asked) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet()
    while (seeds := orders.recv()) is not None:
        orders.send(run_seeds(options, seeds))


def run_parallel(
    options: Asked,
    seeds: range,
    jobs: int,
    progress: Callable[[Totals], None] = lambda totals: None,
    enough: Callable[[Totals], bool] = lambda totals: False,
) -> Totals:
    """The runs of ``seeds`` on ``jobs`` processes, in chunks; ends early when ``enough`` says so or on Ctrl-C."""
    totals = Totals()
    chunks = _chunks(seeds)
    context = multiprocessing.get_context("fork")
    workers: dict[Connection, multiprocessing.process.BaseProcess] = {}
    for _ in range(max(1, jobs)):
        ours, theirs = context.Pipe()
        worker = context.Process(target=_work, args=(theirs, options), daemon=True)
        worker.start()
        theirs.close()
        workers[ours] = worker
    try:
        busy = {orders for orders in workers if _order(orders, chunks)}
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                totals.add(ready.recv())
                progress(totals)
                if enough(totals) or not _order(ready, chunks):
                    busy.discard(ready)
    except KeyboardInterrupt:
        pass
    finally:
        for worker in workers.values():
            worker.terminate()
            worker.join()
    totals.violations.sort(key=lambda found: found.seed)
    return totals


def _chunks(seeds: range) -> Iterator[range]:
    for at in range(0, len(seeds), CHUNK_RUNS):
        yield seeds[at : at + CHUNK_RUNS]


def _order(orders: Connection, chunks: Iterator[range]) -> bool:
    chunk = next(chunks, None)
    if chunk is not None:
        orders.send(chunk)
    return chunk is not None
