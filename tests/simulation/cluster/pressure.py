"""Bounds that are met: in some runs, and in all with ``--pressure``, what bounds memory is far smaller than outside, and messages larger.

Guarantee: while such a run lasts, each constant of ``CONSTANTS`` has one of the values that stand there, wherever it is looked up;
afterwards all are as before.  Values are drawn from the run's seed, by a stream of their own.
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from typing import Final

from stele import delivery_buffer
from stele.broker import consumer as broker_consumer
from stele.broker import subscription as broker_subscription
from stele.broker.cache import BatchCache
from stele.broker.pipeline import Pipeline
from stele.datanode.append import AppendStream
from stele.datanode.fetch import FetchStream
from stele.services.rpc.streams import RequestStream
from tests.simulation import bounds as replica_bounds
from tests.simulation.cluster import bounds
from tests.simulation.pressure import ASKED, KIB, WAITS, Constant, kept_up

BATCH_BYTES_MAX: Final = 4 * KIB  # of a producer
VALUE_BYTES_MAX: Final = 4 * KIB
CREDIT_MAX: Final = 50  # what consumers ask for: as outside, none may ask for more than a broker gives


CONSTANTS: Final = (
    *WAITS,
    Constant("append_bytes_max", (Pipeline.__init__,), (4 * KIB, 12 * KIB)),  # an append is one entry
    *ASKED,
    Constant("requests_max", (AppendStream.__init__,), (2, 8)),
    Constant("bytes_max", (AppendStream.__init__,), (8 * KIB, 64 * KIB)),
    Constant("requests_max", (FetchStream.__init__,), (1, 4)),
    Constant("requests_max", (RequestStream.__init__,), (8, 64)),
    Constant("bytes_max", (BatchCache.__init__,), (4 * KIB, 64 * KIB)),
    Constant("UNCONFIRMED_MAX", (broker_consumer,), (1, 4)),
    Constant("CREDIT_MESSAGES_MAX", (broker_subscription,), (CREDIT_MAX,)),
    Constant("TURN_MESSAGES_MAX", (broker_subscription,), (1, 5)),
    Constant("RANGES_MAX", (broker_subscription,), (20, 60)),
    # Not one at a time: with one request unconfirmed as well that is 28 a second, and what a run leaves takes longer than it may settle.
    Constant("ACKS_MAX", (delivery_buffer,), (4, 10)),
    # What one piece of the largest size may add to a bound: no larger ones are made.
    Constant("ENTRY_BYTES_MAX", (replica_bounds,), (16 * KIB,)),
    Constant("MESSAGE_BYTES_MAX", (bounds,), (16 * KIB,)),
)


class Pressure:
    """``wanted``: the run is under pressure."""

    def __init__(self, wanted: bool, rng: random.Random) -> None:
        self.wanted, self._rng = wanted, rng

    def kept_up(self) -> AbstractContextManager[None]:
        return kept_up(self.wanted, self._rng, CONSTANTS)

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
