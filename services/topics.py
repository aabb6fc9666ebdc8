"""What users say of topics: names of namespaces, topics and subscriptions, and how long messages are kept.  Pure.

One pattern for all names, so that every name is a ZooKeeper path element, a file name and a URL segment as it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from stele.services.errors import InvalidArgument
from stele.services.pb import common_pb2

NAME_CHARS_MAX = 128
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")
RETENTION_BYTES_MIN, RETENTION_BYTES_MAX = 64 << 10, 1 << 50
RETENTION_MS_MIN, RETENTION_MS_MAX = 1_000, 100 * 365 * 86_400_000


@dataclass(frozen=True, slots=True)
class Retention:
    """How long messages are kept: one may go as soon as either bound is passed; a bound of 0 is none."""

    size_bytes: int = 0  # of each partition's log
    age_ms: int = 0  # since it was stored

    def __bool__(self) -> bool:
        return bool(self.size_bytes or self.age_ms)

    def changed_by(self, message: common_pb2.Retention) -> Retention:
        """With the bounds that ``message`` names; what it leaves out stays."""
        return Retention(
            message.size_bytes if message.HasField("size_bytes") else self.size_bytes,
            message.age_ms if message.HasField("age_ms") else self.age_ms,
        )

    def message(self) -> common_pb2.Retention:
        """Both bounds; ``FOR_EVER.changed_by`` makes the same of it again."""
        return common_pb2.Retention(size_bytes=self.size_bytes, age_ms=self.age_ms)


FOR_EVER = Retention()


def check_retention(retention: Retention) -> Retention:
    """``retention`` itself if a topic may have it.  Raises InvalidArgument."""
    for name, value, low, high in (
        ("retention_bytes", retention.size_bytes, RETENTION_BYTES_MIN, RETENTION_BYTES_MAX),
        ("retention_ms", retention.age_ms, RETENTION_MS_MIN, RETENTION_MS_MAX),
    ):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or (value and not low <= value <= high):
            shown = value if is_whole and abs(value) < 1 << 256 else _shown(value)
            raise InvalidArgument(f"{name} {shown} is not accepted: {low} to {high}, or 0 to keep messages for ever")
    return retention


def check_name(kind: str, name: str) -> str:
    """``name`` itself if it may name a ``kind`` ("namespace", "topic", "subscription").  Raises InvalidArgument."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{kind} name {_shown(name)} is not accepted: 1 to {NAME_CHARS_MAX} of a-z A-Z 0-9 . _ -, "
            "starting with a letter or digit",
            name=_shown(name),
        )
    return name


def parse_topic(topic: str) -> tuple[str, str]:
    """``"orders/paid"`` → ``("orders", "paid")``.  Raises InvalidArgument."""
    namespace, slash, name = topic.partition("/") if isinstance(topic, str) else ("", "", "")
    if not slash:
        raise InvalidArgument(f"topic {_shown(topic)} is not accepted: write it as namespace/topic", name=_shown(topic))
    return check_name("namespace", namespace), check_name("topic", name)


def _shown(name: object) -> str:
    if not isinstance(name, str):
        return f"of type {type(name).__name__}"
    return repr(name if len(name) <= NAME_CHARS_MAX + 1 else name[:40] + "…")
