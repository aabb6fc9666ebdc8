"""Which process something belongs to.

A forked child has the objects of its parent and none of its threads, event loops or connections: what it did with them would wait for
ever, or speak in the parent's name on the parent's sockets.  gRPC shares more than that: where a client was connected at the fork, any
use of it in the child may hang or abort.  So both are refused.
"""

from __future__ import annotations

import os
from weakref import WeakSet

from stele.errors import ClientClosed

_WAY_OUT = "connect only after forking, close every client before, or start processes with multiprocessing's spawn"


class Birthplace:
    """Made where an object is made."""

    __slots__ = ("__weakref__", "_pid")

    def __init__(self) -> None:
        self._pid = os.getpid()

    def check(self, what: str) -> None:
        """Raises ClientClosed in any other process."""
        if os.getpid() != self._pid:
            raise ClientClosed(f"{what} belongs to process {self._pid}, from which this one was forked: {_WAY_OUT}")

    def connect(self) -> None:
        """gRPC is used from here on.  Raises ClientClosed in a process that was forked beside a connected client."""
        if _inherited:
            _inherited[0].check("a connected client")
        _connected.add(self)

    def disconnect(self) -> None:
        _connected.discard(self)


_connected: WeakSet[Birthplace] = WeakSet()
_inherited: list[Birthplace] = []  # of those that were connected when this process was forked, one


def _forked() -> None:
    _inherited.extend(list(_connected)[:1])
    _connected.clear()


if hasattr(os, "register_at_fork"):  # where processes are forked at all
    os.register_at_fork(after_in_child=_forked)
