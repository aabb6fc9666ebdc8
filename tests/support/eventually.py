"""Waiting in tests: a deadline always, a bare sleep never."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(
    check: Callable[[], T | Awaitable[T]],
    within_s: float = 10.0,
    every_s: float = 0.02,
    describe: Callable[[], object] | None = None,
) -> T:
    """The first truthy result of ``check``; AssertionErrors of it count as "not yet".  Past the deadline: AssertionError with the
    last result and whatever ``describe`` returns (the cluster's state)."""
    deadline = time.monotonic() + within_s
    last: object = None
    while True:
        try:
            result = check()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result  # type: ignore[return-value]
            last = result
        except AssertionError as e:
            last = e
        if time.monotonic() > deadline:
            state = f"\n{describe()}" if describe else ""
            raise AssertionError(f"not within {within_s} s; last: {last!r}{state}")
        await asyncio.sleep(every_s)
