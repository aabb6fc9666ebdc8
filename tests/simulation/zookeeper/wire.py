"""What the servers say, in ZooKeeper's own bytes: kazoo reads them as it reads a real server's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kazoo.exceptions import EXCEPTIONS
from kazoo.protocol.serialization import (
    MultiHeader,
    Ping,
    Transaction,
    int_int_long_struct,
    int_int_struct,
    int_struct,
    reply_header_struct,
    stat_struct,
    write_buffer,
    write_string,
)

from tests.simulation.zookeeper.tree import Event

WATCH_XID = -1
PING_XID = -2
CONNECTED = 3  # the state of a session, as watch events tell it


def number(value: int) -> bytes:
    return int_struct.pack(value)


def string(value: str) -> bytes:
    return bytes(write_string(value))


def buffer(value: bytes) -> bytes:
    return bytes(write_buffer(value))


def strings(values: Sequence[str]) -> bytes:
    return int_struct.pack(len(values)) + b"".join(map(write_string, values))


def stat(fields: Sequence[int]) -> bytes:
    return stat_struct.pack(*fields)


def answer(xid: int, zxid: int, error: int, body: bytes = b"") -> bytes:
    return reply_header_struct.pack(xid, zxid, error) + (b"" if error else body)


def watch_event(event: Event) -> bytes:
    return answer(WATCH_XID, -1, 0, int_int_struct.pack(event.kind.value, CONNECTED) + write_string(event.path))


def greeting(timeout_ms: int, session: int, password: bytes) -> bytes:
    """``timeout_ms`` 0: there is no such session."""
    return int_int_long_struct.pack(0, timeout_ms, session) + write_buffer(password) + b"\0"


def transaction(results: Sequence[tuple[int, bytes]]) -> bytes:
    """Kind of operation, or -1 for an error, and its result."""
    each = (MultiHeader(kind, False, -1).serialize() + body for kind, body in results)
    return b"".join(map(bytes, each)) + bytes(MultiHeader(-1, True, -1).serialize())


def requested(request: Any) -> str:
    """A request in a trace; "" for what only says that its client is there."""
    if isinstance(request, Ping):
        return ""
    asked = request.operations if isinstance(request, Transaction) else [request]
    return ", ".join(f"{type(one).__name__} {getattr(one, 'path', '')}".rstrip() for one in asked)


def answered(content: bytes) -> str:
    """An answer, or a watch event, in a trace; "" for that to a ping, and a greeting, which is not framed like them, is one."""
    if int_int_long_struct.unpack_from(content)[0] == 0:
        return "session"
    xid, _, error = reply_header_struct.unpack_from(content)
    if xid == PING_XID:
        return ""
    if xid == WATCH_XID:
        header = reply_header_struct.size + int_int_struct.size
        (size,) = int_struct.unpack_from(content, header)
        return f"watch event {content[header + 4 : header + 4 + size].decode()}"
    return f"answer {EXCEPTIONS[error].__name__}" if error else f"answer {len(content)} bytes"
