"""Callbacks of one kind of event.

Guarantee: each is called once per event, in the order of subscription; one that raises is logged and keeps neither the others nor the
publisher from going on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger()


class Subscribers(Generic[T]):
    def __init__(self) -> None:
        self._callbacks: list[Callable[[T], None]] = []

    def add(self, callback: Callable[[T], None]) -> Callable[[], None]:
        """Until the returned function is called, which may be done more than once."""
        self._callbacks.append(callback)

        def remove() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return remove

    def publish(self, event: T) -> None:
        for callback in list(self._callbacks):
            try:
                callback(event)
            except Exception:
                log.exception("subscriber_failed", subscriber=getattr(callback, "__qualname__", repr(callback)))
