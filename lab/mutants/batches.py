"""Messages that are taken or stored without being looked at."""

from __future__ import annotations

from typing import Any

from stele.services.batch import BatchHeader, read_header


def takes_by_reference(name: str, value: Any) -> Any:
    """A buffer is kept as it is handed over, so that whoever fills it again changes a message that was sent."""
    return value


def looks_at_the_header_alone(batch: bytes) -> BatchHeader:
    """A batch whose records cannot be read is stored, and stops everybody who consumes it."""
    return read_header(batch)
