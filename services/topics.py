"""Names that users choose: namespaces, topics, subscriptions.

One pattern for all of them, so that every name is a ZooKeeper path element, a file name and a URL segment as it stands.
"""

from __future__ import annotations

import re

from services.errors import InvalidArgument

NAME_CHARS_MAX = 128
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")


def check_name(kind: str, name: str) -> str:
    """``name`` itself if it may name a ``kind`` ("namespace", "topic", "subscription").  Raises InvalidArgument."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{kind} name {_shown(name)} is not accepted: 1 to {NAME_CHARS_MAX} of a-z A-Z 0-9 . _ -, "
            "starting with a letter or digit",
            name=_shown(name),
        )
    return name


def parse_topic(topic: str) -> tuple[str, str]:
    """``"orders/paid"`` → ``("orders", "paid")``.  Raises InvalidArgument."""
    namespace, slash, name = topic.partition("/")
    if not slash:
        raise InvalidArgument(f"topic {_shown(topic)} is not accepted: write it as namespace/topic", name=_shown(topic))
    return check_name("namespace", namespace), check_name("topic", name)


def _shown(name: str) -> str:
    return repr(name if len(name) <= NAME_CHARS_MAX + 1 else name[:40] + "…")
