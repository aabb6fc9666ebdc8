"""Amounts as a person writes them: sizes and spans of time."""

from __future__ import annotations

from stele.services.errors import InvalidArgument
from stele.services.units import parse_size, parse_span

FOR_EVER = "forever"


def bytes_of(option: str, text: str) -> int | None:
    """``"1GiB"`` → bytes; None for an option that was not given; 0 for ``forever``.  InvalidArgument."""
    if not text:
        return None
    if text == FOR_EVER:
        return 0
    try:
        return parse_size(text)
    except ValueError:
        raise InvalidArgument(f"{option} {text!r} is not accepted: a size like 512MiB or 1GiB, or {FOR_EVER}") from None


def ms_of(option: str, text: str) -> int | None:
    """``"7d"`` → milliseconds; None for an option that was not given; 0 for ``forever``.  InvalidArgument."""
    if not text:
        return None
    if text in (FOR_EVER, "0"):
        return 0
    try:
        return parse_span(text)
    except ValueError:
        raise InvalidArgument(
            f"{option} {text!r} is not accepted: a time like 90s, 30min, 1h30m or 7d, or {FOR_EVER}"
        ) from None
