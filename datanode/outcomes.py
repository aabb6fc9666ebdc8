"""What applying one command came to.  Plain values: equal on every replica that applied the same log."""

from __future__ import annotations

from dataclasses import dataclass

from stele.services.errors import SteleError, from_wire


@dataclass(frozen=True, slots=True)
class Refused:
    """The command (or one batch of it) changed nothing, for a reason of services/errors.py."""

    reason: str
    message: str
    facts: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(error: SteleError) -> Refused:
        return Refused(error.reason, error.message, tuple(sorted(error.facts.items())))

    def error(self) -> SteleError:
        return from_wire(self.reason, self.message, dict(self.facts))


@dataclass(frozen=True, slots=True)
class Appended:
    """A batch is stored at ``base_offset``; ``duplicate``: it was already, by an earlier attempt."""

    base_offset: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class AppendOutcome:
    """One result per batch, in the order of the request."""

    results: tuple[Appended | Refused, ...]


@dataclass(frozen=True, slots=True)
class FenceOutcome:
    """Every write below ``owner_epoch`` is refused from here on."""

    owner_epoch: int
    high_watermark: int
    log_start: int


@dataclass(frozen=True, slots=True)
class CursorOutcome:
    """The cursor after the command.  Its ranges are read from the partition when they are wanted: they may be
    thousands."""

    subscription: str
    ack_floor: int
    generation: int
    created: bool = False


@dataclass(frozen=True, slots=True)
class DeleteOutcome:
    """The cursor is gone; ``existed``: it was there."""

    existed: bool


@dataclass(frozen=True, slots=True)
class TrimOutcome:
    """Messages below ``log_start`` are no longer kept; ``unacked`` of them were still owed to a subscription."""

    log_start: int
    unacked: int = 0


Outcome = AppendOutcome | FenceOutcome | CursorOutcome | DeleteOutcome | TrimOutcome | Refused
