"""The ready gate of a process: named conditions that must all hold.

Guarantee: the gate is open exactly while every condition holds and the process is not draining; who waits is woken by the
change itself.  Conditions are added closed.  Used from the event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

Subscriber = Callable[["ReadyGate"], None]


@dataclass(slots=True)
class _Condition:
    holds: bool
    detail: str


class ReadyGate:
    """``gate.add("loaded"); gate.set("loaded", True, detail="3/3"); await gate.wait()``."""

    def __init__(self) -> None:
        self._conditions: dict[str, _Condition] = {}
        self._draining = False
        self._waiters: dict[asyncio.Future[None], frozenset[str]] = {}
        self._subscribers: list[Subscriber] = []

    def add(self, name: str, detail: str = "") -> None:
        """A condition that does not hold yet; adding it twice changes nothing but the detail."""
        condition = self._conditions.setdefault(name, _Condition(False, detail))
        condition.detail = detail or condition.detail
        self._changed()

    def set(self, name: str, holds: bool, detail: str | None = None) -> None:
        """Says whether ``name`` holds; without ``detail`` the last one stays."""
        condition = self._conditions.setdefault(name, _Condition(holds, ""))
        condition.holds = holds
        if detail is not None:
            condition.detail = detail
        self._changed()

    def drain(self) -> None:
        """Closes the gate for good: the process is going away."""
        self._draining = True
        self._changed()

    @property
    def is_open(self) -> bool:
        return not self._draining and all(c.holds for c in self._conditions.values())

    def holds(self, *names: str) -> bool:
        """Whether these conditions hold, whatever the others do; a condition that was never added does not."""
        return all((c := self._conditions.get(name)) is not None and c.holds for name in names)

    async def wait(self, *names: str) -> None:
        """Until these conditions hold; without names, until the gate is open."""
        wanted = frozenset(names)
        while not self._reached(wanted):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = wanted
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)

    def verbose(self) -> list[tuple[str, bool, str]]:
        """(name, holds, detail) in the order of adding."""
        rows = [(name, c.holds, c.detail) for name, c in self._conditions.items()]
        return [*rows, ("not-draining", False, "shutting down")] if self._draining else rows

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Calls ``callback(gate)`` after each change; the result ends that."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback) if callback in self._subscribers else None

    def _reached(self, wanted: frozenset[str]) -> bool:
        return self.holds(*wanted) if wanted else self.is_open

    def _changed(self) -> None:
        for waiter, wanted in list(self._waiters.items()):
            if not waiter.done() and self._reached(wanted):
                waiter.set_result(None)
        for callback in list(self._subscribers):
            callback(self)
