"""Which process something belongs to.

A forked child has the objects of its parent and none of its threads, event loops or connections: what it did with them would wait for
ever, or speak in the parent's name on the parent's sockets.
"""

from __future__ import annotations

import os

from stele.errors import ClientClosed


class Birthplace:
    """Made where an object is made."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    def check(self, what: str) -> None:
        """Raises ClientClosed in any other process."""
        if os.getpid() != self._pid:
            raise ClientClosed(
                f"{what} belongs to process {self._pid}: connect anew in this one, which was forked from it"
            )
