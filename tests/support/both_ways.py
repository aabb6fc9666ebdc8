"""Every rule is tested twice: the product keeps its promise, and a part that is wrong on purpose (lab/mutants) breaks that very one.

A scenario wraps what shows the promise in ``promise("…")``, in the words of the registry:

    async def scenario(hold: type[NameHold]) -> None:
        ...
        with promise("a name is never taken from a live process"):
            ...

    await holds_and_mutant_fails(scenario, NameHold, "names.TakesFromTheLive")

A mutant that stumbles elsewhere, or fails in another way, proves nothing, and the test fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from stele.lab.mutants import MUTANTS
from stele.services.errors import SteleError

T = TypeVar("T")


class BrokenPromise(AssertionError):
    """What was promised does not hold."""

    def __init__(self, promised: str, cause: BaseException) -> None:
        super().__init__(f"broken: {promised}\n{type(cause).__name__}: {cause}")
        self.promised = promised


@contextmanager
def promise(promised: str) -> Iterator[None]:
    """What is inside shows that ``promised`` holds: if it fails, whether by an assertion, by one of our errors or by one that was not
    raised, the promise is broken."""
    try:
        yield
    except BrokenPromise:
        raise
    except (AssertionError, SteleError, pytest.fail.Exception, TimeoutError) as e:
        raise BrokenPromise(promised, e) from e


async def holds_and_mutant_fails(
    scenario: Callable[[T], Awaitable[None]], product: T, mutant: str, make: Callable[[Any], T] | None = None
) -> None:
    """``scenario`` passes with the product; with the mutant of that name, or what ``make`` makes of it, it ends with the promise
    broken that the registry names."""
    known = MUTANTS[mutant]
    await scenario(product)
    with pytest.raises(BrokenPromise) as broken:
        await scenario(known.load() if make is None else make(known.load()))
    assert broken.value.promised in known.promises
