"""The fewest faults, and the shortest run, that still show a violation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from tests.simulation.checks import Violation
from tests.simulation.runner import Asked, Run, Totals, run_one, uncollected

SHRINK_S = 60.0
LAST_LINES = 40


@dataclass(frozen=True, slots=True)
class Shrunk:
    """``options`` show ``violation`` with ``faults`` only."""

    options: Asked
    violation: Violation
    faults: Sequence[object]
    trace: Sequence[object]


def shrink(options: Asked, within_s: float = SHRINK_S) -> Shrunk:
    """Takes faults out, half of them at first, as long as a violation of the same kind remains (ddmin); then cuts the end off."""
    deadline = time.monotonic() + within_s
    first = _fails(options)
    assert first is not None, "the run does not fail"
    kind = first.kind
    options = cast(Any, options)

    def same(candidate: Asked) -> bool:
        found = _fails(candidate)
        return found is not None and found.kind == kind

    world = options.world()
    kept = _fewest(
        [fault.number for fault in world.faults],
        lambda numbers: same(replace(options, only_faults=tuple(numbers))),
        lambda: time.monotonic() > deadline,
    )
    best = replace(options, only_faults=tuple(kept))
    last = max((fault.at for fault in best.world().faults), default=0.0)
    for seconds in (last + 0.01, last + 0.5, last + 2.0):
        if seconds < world.seconds and same(candidate := replace(best, seconds=round(seconds, 3))):
            best = candidate
            break
    traced = replace(best, traced=True).world()
    violation = _run(traced, best)
    assert violation is not None
    assert traced.trace is not None
    return Shrunk(best, violation, traced.faults, traced.trace)


def _fails(options: Asked) -> Violation | None:
    """What the run leaves is given back when it is over: in the midst of a later one its coroutines would end there."""
    with uncollected():
        return run_one(options, Totals())


def _run(world: Run, options: Asked) -> Violation | None:
    from tests.simulation.mutants import switched

    with switched(options.mutants), uncollected():
        try:
            world.run()
        except Violation as e:
            return e
    return None


def _fewest(numbers: list[int], fails: Callable[[list[int]], bool], over: Callable[[], bool]) -> list[int]:
    """ddmin: a subset that still fails and of which no single piece tried can go."""
    pieces = 2
    while len(numbers) >= 1 and not over():
        size = max(1, -(-len(numbers) // pieces))
        for at in range(0, len(numbers), size):
            rest = numbers[:at] + numbers[at + size :]
            if over() or fails(rest):
                if not over():
                    numbers, pieces = rest, max(2, pieces - 1)
                break
        else:
            if size == 1:
                break
            pieces = min(len(numbers), pieces * 2)
    return numbers


def report(shrunk: Shrunk) -> str:
    """A violation as it is printed."""
    faults = "\n".join(f"    {fault}" for fault in shrunk.faults) or "    none"
    return (
        f"VIOLATION with seed {shrunk.options.seed}: {shrunk.violation}\n"
        f"  the faults that it takes:\n{faults}\n"
        f"  the last events:\n" + "\n".join(f"    {line}" for line in shrunk.trace[-LAST_LINES:]) + "\n"
        f"  replay: {shrunk.options.replay()}"
    )
