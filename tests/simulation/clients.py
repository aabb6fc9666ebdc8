"""Requests to simulated processes: they take time, and their answers get lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stele.services.errors import ConnectionBroken, SteleError

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

CALL_TIMEOUT_S = 2.5
Ask = Callable[["Process"], Any]
Answered = Callable[[object, SteleError | None], None]


class Call:
    """One request to the process that runs on a store now.  ``answered`` is called exactly once, after at most CALL_TIMEOUT_S."""

    __slots__ = ("_answered", "_ask", "_proposed", "_rng", "_world")

    def __init__(self, world: World, rng: random.Random, store_id: int, ask: Ask, answered: Answered) -> None:
        self._world = world
        self._rng = rng
        self._ask = ask
        self._proposed: list[tuple[int, int]] = []  # index and term of the entries that came of it at once
        self._answered: Answered | None = answered
        world.workload.in_flight += 1
        process = world.stores[store_id].process
        if process is None:
            world.scheduler.after(self._delay(), self._end, None, ConnectionBroken("refused"))
            return
        world.scheduler.after(self._delay(), process.loop.arrive, self._run, process)
        world.scheduler.after(CALL_TIMEOUT_S, self._end, None, ConnectionBroken("no answer in time"))

    def _delay(self) -> float:
        return self._rng.expovariate(1 / 0.001)

    def _run(self, process: Process) -> None:
        journal = process.group.journal if process.group is not None else None
        before = journal.last_index if journal is not None else 0
        try:
            asked = self._ask(process)
        except SteleError as e:
            asked = e
        if journal is not None:
            self._proposed = [(index, journal.term_at(index)) for index in range(before + 1, journal.last_index + 1)]
        if isinstance(asked, SteleError):
            self._answer(process, None, asked)
            return
        if isinstance(asked, asyncio.Future):
            asked.add_done_callback(lambda done: self._done(process, done))
        else:
            self._answer(process, asked, None)

    def _done(self, process: Process, done: asyncio.Future[object]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is not None and not isinstance(error, SteleError):
            raise error
        self._answer(process, None if error else done.result(), error)

    def _answer(self, process: Process, result: object, error: SteleError | None) -> None:
        if process.loop.effect():
            self._world.scheduler.after(self._delay(), self._end, result, error)

    def _end(self, result: object, error: SteleError | None) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            self._world.workload.in_flight -= 1
            if error is not None and error.definite:
                for index, term in self._proposed:
                    self._world.checks.refused_for_certain(index, term)
            answered(result, error)
