"""Amounts as a person writes them: sizes and spans of time."""

from __future__ import annotations

import re

from stele.services.errors import InvalidArgument
from stele.services.settings import parse_size

_SPAN = re.compile(r"(\d+)\s*([a-z]+)")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
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
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None or match[2] not in _UNITS_MS:
        raise InvalidArgument(f"{option} {text!r} is not accepted: a time like 90s, 30min, 12h or 7d, or {FOR_EVER}")
    return int(match[1]) * _UNITS_MS[match[2]]


def span(ms: int) -> str:
    """Milliseconds for a person, exactly: 7d, 36h, 1500ms."""
    for unit in ("d", "h", "min", "s"):
        if ms and ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"
