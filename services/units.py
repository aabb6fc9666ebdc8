"""Sizes and spans of time as people write them: ``64MiB``, ``1h30m``.  Pure.

Whole amounts with a unit; a span may be the sum of several.  What one writes with :func:`shown_size` or :func:`shown_span`,
the other reads back exactly.
"""

from __future__ import annotations

import re

_FACTORS = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_BYTES = {"": 1, "b": 1, **{name: size for unit, size in _FACTORS.items() for name in (unit.lower(), unit[0].lower())}}
_SIZE = re.compile(r"(\d+)\s*([a-zA-Z]*)")
_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_PART = re.compile(r"(\d+)\s*(ms|s|min|m|h|d|w)\s*")
_SPAN = re.compile(f"(?:{_PART.pattern})+")


def parse_size(text: str) -> int:
    """``"64MiB"`` → bytes; a number alone is one of bytes.  ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _BYTES:
        raise ValueError(f"{text!r} is no size")
    return int(match[1]) * _BYTES[match[2].lower()]


def parse_span(text: str) -> int:
    """``"1h30m"`` → milliseconds.  ValueError, also for a number without its unit."""
    text = text.strip().lower()
    if not _SPAN.fullmatch(text):
        raise ValueError(f"{text!r} is no span of time")
    return sum(int(amount) * _MS[unit] for amount, unit in _PART.findall(text))


def shown_size(size: int) -> str:
    """Bytes for a person, exactly: 64MiB, 1000."""
    for unit, factor in _FACTORS.items():
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def shown_span(ms: int) -> str:
    """Milliseconds for a person, exactly: 7d, 36h, 1500ms."""
    for unit in ("d", "h", "min", "s"):
        if ms and ms % _MS[unit] == 0:
            return f"{ms // _MS[unit]}{unit}"
    return f"{ms}ms"
