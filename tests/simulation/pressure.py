"""Bounds that are met: in some runs, and in all with ``--pressure``, what bounds the memory of a replica is far smaller than outside.

Guarantee: while such a run lasts, each constant has one of the values that stand here, wherever it is looked up; afterwards all are as
before.  Values are drawn from the run's seed, by a stream of their own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final

from stele.services.raft import engine, journal, lanes, progress, proposals, read_index, replication
from tests.simulation import bounds

KIB: Final = 1 << 10
PRESSURE_SHARE: Final = 0.15  # of the runs


@dataclass(frozen=True, slots=True)
class Constant:
    """``name`` of a module, or of a parameter whose default it is."""

    name: str
    owners: tuple[Any, ...]  # all who look it up by name
    values: tuple[int, ...]


WAITS: Final = (
    Constant("UNSYNCED_BYTES_MAX", (journal, engine), (4 * KIB, 32 * KIB)),
    Constant("DISK_UNSYNCED_BYTES_MAX", (journal,), (8 * KIB, 64 * KIB)),
    Constant("tail_bytes_max", (journal.Journal.__init__,), (4 * KIB, 64 * KIB)),
    Constant("BATCH_BYTES_MAX", (replication, lanes), (2 * KIB, 16 * KIB)),
    Constant("INFLIGHT_BYTES_MAX", (progress,), (8 * KIB, 64 * KIB)),
    Constant("INFLIGHT_REQUESTS_MAX", (progress,), (2, 8)),
    Constant("BULK_BYTES_MAX", (lanes,), (4 * KIB, 32 * KIB)),
    Constant("QUEUE_BYTES_MAX", (lanes,), (128 * KIB,)),
)
"""For disks and links."""

ASKED: Final = (
    Constant("PENDING_MAX", (proposals,), (3, 20)),
    Constant("PENDING_BYTES_MAX", (proposals,), (4 * KIB, 32 * KIB)),
    Constant("READS_MAX", (engine, read_index), (1, 4)),
)
"""Of a group, by its users."""

CONSTANTS: Final = (
    *WAITS,
    *ASKED,
    # What one piece of the largest size may add to a bound: no larger ones are made (workload.py).
    Constant("ENTRY_BYTES_MAX", (bounds,), (4 * KIB,)),
)


@contextlib.contextmanager
def kept_up(wanted: bool, rng: random.Random, constants: Sequence[Constant] = CONSTANTS) -> Iterator[None]:
    before = [(owner, c.name, get_constant(owner, c.name)) for c in constants for owner in c.owners]
    try:
        for constant in constants if wanted else ():
            value = rng.choice(constant.values)
            for owner in constant.owners:
                _set(owner, constant.name, value)
        yield
    finally:
        for owner, name, value in before:
            _set(owner, name, value)


def get_constant(owner: Any, name: str) -> Any:
    if not isinstance(owner, FunctionType):
        return getattr(owner, name)
    named = owner.__kwdefaults__ or {}
    return named[name] if name in named else (owner.__defaults__ or ())[_place(owner, name)]


def _set(owner: Any, name: str, value: Any) -> None:
    if not isinstance(owner, FunctionType):
        setattr(owner, name, value)
    elif owner.__kwdefaults__ and name in owner.__kwdefaults__:
        owner.__kwdefaults__[name] = value
    else:
        defaults = list(owner.__defaults__ or ())
        defaults[_place(owner, name)] = value
        owner.__defaults__ = tuple(defaults)


def _place(function: FunctionType, name: str) -> int:
    """Of a parameter, from the end of those that may be given by position."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount].index(name) - code.co_argcount
