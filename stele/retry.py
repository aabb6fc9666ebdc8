"""When the client tries again.  Pure: time and randomness are given.

Guarantee: a definite, terminal refusal is never repeated; everything else is repeated until its deadline, after a wait that grows,
has a cap and is jittered, so that clients which lost the same broker do not come back as one.
"""

from __future__ import annotations

from stele.services.backoff import Backoff
from stele.services.errors import BatchCorrupt, Fenced, OutOfOrderSequence, SteleError
from stele.services.rng import Rng

BACKOFF = Backoff(first_s=0.02, max_s=0.25)


def backoff_s(failures: int, rng: Rng) -> float:
    """The wait before the attempt that follows ``failures`` failures in a row; none after the first, which only asks for a new
    lookup."""
    return BACKOFF.after(failures - 1, rng)


def may_retry(error: SteleError) -> bool:
    """Whether an idempotent request may be repeated after ``error``.

    An indefinite error always allows it: the request carries what identifies it.  ``Fenced`` speaks of the broker, not of the client;
    ``BatchCorrupt`` of bytes that were whole when they left; ``OutOfOrderSequence`` is decided by the sender, who knows what it sent.
    """
    return not error.definite or error.retryable or isinstance(error, Fenced | BatchCorrupt | OutOfOrderSequence)
