"""What a caller hands over, looked at before anything is done with it.  Pure.

Guarantee: what a function here returns is of the type that it says, within its bounds, and shares no memory with the caller; for
anything else it raises InvalidArgument, which names the argument and says what is accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stele.services.errors import InvalidArgument

SHOWN_CHARS_MAX = 60
TIMEOUT_S_MAX = 365 * 86_400.0


def octets(name: str, value: Any) -> bytes:
    """bytes, or a copy of what a bytearray or a contiguous memoryview of bytes holds now."""
    if type(value) is bytes:
        return value
    if isinstance(value, memoryview):
        if value.ndim != 1 or value.format not in ("B", "b", "c") or not value.c_contiguous:
            raise refusal(name, value, "bytes, a bytearray, or a contiguous memoryview of bytes")
        return bytes(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    raise refusal(name, value, "bytes, a bytearray, or a contiguous memoryview of bytes")


def headers(value: Any) -> dict[str, bytes]:
    """Names and values; None: none."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise refusal("headers", value, "a mapping of names to bytes, or None")
    copied: dict[str, bytes] = {}
    for name, content in value.items():
        copied[text("headers: a name", name)] = octets(f"headers[{shown(name)}]", content)
    return copied


def text(name: str, value: Any) -> str:
    """A string that UTF-8 can encode."""
    if not isinstance(value, str):
        raise refusal(name, value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refusal(name, value, "a string that UTF-8 can encode") from None
    return str(value)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise refusal(name, value, "True or False")
    return value


def whole(name: str, value: Any, low: int, high: int, what: str = "") -> int:
    """An integer from ``low`` to ``high``; ``what``: of what."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise refusal(name, value, f"a whole number from {low} to {high}{what and ' '}{what}")
    return int(value)


def number(name: str, value: Any, low: float, high: float, what: str = "") -> float:
    """A number from ``low`` to ``high``; ``what``: of what."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise refusal(name, value, f"a number from {low:g} to {high:g}{what and ' '}{what}")
    return float(value)


def timeout_s(value: Any, name: str = "timeout_s") -> float:
    return number(name, value, 0, TIMEOUT_S_MAX, "of seconds")


def refusal(name: str, value: Any, accepted: str) -> InvalidArgument:
    return InvalidArgument(f"{name} {shown(value)} is not accepted: {accepted}", argument=name)


def shown(value: Any) -> str:
    """A value in one line of bounded length, whatever it is."""
    if isinstance(value, str | bytes | bytearray | memoryview | int | float | None):
        kind = f"of type {type(value).__name__}"
        if isinstance(value, memoryview):
            return f"{kind} ({value.ndim} dimensions of format {value.format!r})"
        if isinstance(value, int) and abs(value) >= 1 << 256:
            return f"{kind} ({value.bit_length()} bits)"
        if isinstance(value, str | bytes | bytearray) and len(value) > SHOWN_CHARS_MAX:
            return f"{value[: SHOWN_CHARS_MAX - 20]!r}… ({len(value)} long)"
        return repr(value)
    return f"of type {type(value).__name__}"
