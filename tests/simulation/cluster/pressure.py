"""Bounds that are met: in some runs, and in all with ``--pressure``, what bounds memory is far smaller than outside, and messages larger.

Guarantee: while such a run lasts, each constant of ``CONSTANTS`` has one of the values that stand there, wherever it is looked up;
afterwards all are as before.  Values are drawn from the run's seed, by a stream of their own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final

from stele import delivery_buffer
from stele.broker import consumer as broker_consumer
from stele.broker import subscription as broker_subscription
from stele.broker.cache import BatchCache
from stele.broker.pipeline import Pipeline
from stele.datanode.append import AppendStream
from stele.datanode.fetch import FetchStream
from stele.services.raft import engine, journal, lanes, progress, proposals, read_index, replication
from stele.services.rpc.streams import RequestStream
from tests.simulation.cluster import bounds

KIB: Final = 1 << 10
PRESSURE_SHARE: Final = 0.15  # of the runs
BATCH_BYTES_MAX: Final = 4 * KIB  # of a producer
VALUE_BYTES_MAX: Final = 4 * KIB
CREDIT_MAX: Final = 50  # what consumers ask for: as outside, none may ask for more than a broker gives


@dataclass(frozen=True, slots=True)
class Constant:
    """``name`` of a module, or of a parameter whose default it is."""

    name: str
    owners: tuple[Any, ...]  # all who look it up by name
    values: tuple[int, ...]


CONSTANTS: Final = (
    Constant("UNSYNCED_BYTES_MAX", (journal, engine), (4 * KIB, 32 * KIB)),
    Constant("DISK_UNSYNCED_BYTES_MAX", (journal,), (8 * KIB, 64 * KIB)),
    Constant("tail_bytes_max", (journal.Journal.__init__,), (4 * KIB, 64 * KIB)),
    Constant("BATCH_BYTES_MAX", (replication, lanes), (2 * KIB, 16 * KIB)),
    Constant("INFLIGHT_BYTES_MAX", (progress,), (8 * KIB, 64 * KIB)),
    Constant("INFLIGHT_REQUESTS_MAX", (progress,), (2, 8)),
    Constant("BULK_BYTES_MAX", (lanes,), (4 * KIB, 32 * KIB)),
    Constant("QUEUE_BYTES_MAX", (lanes,), (128 * KIB,)),
    Constant("append_bytes_max", (Pipeline.__init__,), (4 * KIB, 12 * KIB)),  # an append is one entry
    Constant("PENDING_MAX", (proposals,), (3, 20)),
    Constant("PENDING_BYTES_MAX", (proposals,), (4 * KIB, 32 * KIB)),
    Constant("READS_MAX", (engine, read_index), (1, 4)),
    Constant("requests_max", (AppendStream.__init__,), (2, 8)),
    Constant("bytes_max", (AppendStream.__init__,), (8 * KIB, 64 * KIB)),
    Constant("requests_max", (FetchStream.__init__,), (1, 4)),
    Constant("requests_max", (RequestStream.__init__,), (8, 64)),
    Constant("bytes_max", (BatchCache.__init__,), (4 * KIB, 64 * KIB)),
    Constant("UNCONFIRMED_MAX", (broker_consumer,), (1, 4)),
    Constant("CREDIT_MESSAGES_MAX", (broker_subscription,), (CREDIT_MAX,)),
    Constant("TURN_MESSAGES_MAX", (broker_subscription,), (1, 5)),
    Constant("RANGES_MAX", (broker_subscription,), (20, 60)),
    Constant("ACKS_MAX", (delivery_buffer,), (1, 10)),
    # What one piece of the largest size may add to a bound: no larger ones are made.
    Constant("ENTRY_BYTES_MAX", (bounds,), (16 * KIB,)),
    Constant("MESSAGE_BYTES_MAX", (bounds,), (16 * KIB,)),
)


class Pressure:
    """``wanted``: the run is under pressure."""

    def __init__(self, wanted: bool, rng: random.Random) -> None:
        self.wanted, self._rng = wanted, rng

    @contextlib.contextmanager
    def kept_up(self) -> Iterator[None]:
        before = [(owner, c.name, _get(owner, c.name)) for c in CONSTANTS for owner in c.owners]
        try:
            for constant in CONSTANTS if self.wanted else ():
                value = self._rng.choice(constant.values)
                for owner in constant.owners:
                    _set(owner, constant.name, value)
            yield
        finally:
            for owner, name, value in before:
                _set(owner, name, value)

    def broker_settings(self) -> dict[str, float]:
        """Smaller than an operator may set; and acknowledgements are written soon, where few may be under way."""
        if not self.wanted:
            return {}
        return {
            "produce_credit_bytes": self._rng.choice((8 * KIB, 64 * KIB)),
            "produce_bytes_max": self._rng.choice((8 * KIB, 64 * KIB)),
            "ack_flush_interval_s": self._rng.choice((0.001, 0.03)),
        }

    def producer_settings(self) -> dict[str, int]:
        if not self.wanted:
            return {}
        return {"batch_bytes_max": BATCH_BYTES_MAX, "buffer_bytes_max": self._rng.choice((8 * KIB, 64 * KIB))}

    def padding(self) -> bytes:
        """What makes a message larger."""
        if not self.wanted or self._rng.random() < 0.7:
            return b""
        return b"." * self._rng.randrange(VALUE_BYTES_MAX)


def _get(owner: Any, name: str) -> Any:
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
