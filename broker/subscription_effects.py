"""What a subscription asks its shell to do (broker/subscription.py).  Pure."""

from __future__ import annotations

from dataclasses import dataclass

from stele.broker.cursor_writes import Range, Redelivered
from stele.services.errors import SteleError


@dataclass(frozen=True, slots=True)
class Deliver:
    consumer: int
    first: int
    last: int
    redelivery_count: int


@dataclass(frozen=True, slots=True)
class ConfirmAcks:
    """These acknowledgements are durable."""

    consumer: int
    request_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RefuseAck:
    consumer: int
    request_id: int
    error: SteleError


@dataclass(frozen=True, slots=True)
class PersistAcks:
    """Write these; answer with ``persisted`` or ``persist_failed``."""

    ranges: tuple[Range, ...]
    generation: int
    redelivered: tuple[Redelivered, ...] = ()  # how often messages that are not acknowledged were delivered again


@dataclass(frozen=True, slots=True)
class SetActive:
    consumer: int
    active: bool


@dataclass(frozen=True, slots=True)
class Close:
    consumer: int
    error: SteleError


SubscriptionEffect = Deliver | ConfirmAcks | RefuseAck | PersistAcks | SetActive | Close
