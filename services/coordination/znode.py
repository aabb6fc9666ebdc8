"""What a node of the coordination tree is, and the operations that a transaction is made of."""

from __future__ import annotations

from dataclasses import dataclass

# A version argument that matches whatever is there.
ANY_VERSION = -1


@dataclass(frozen=True, slots=True)
class Stat:
    version: int  # of the value; begins at 0 with each creation
    czxid: int  # transaction that created the node: differs between two nodes that had the same path
    mzxid: int  # transaction that last changed the value
    ephemeral_owner: int  # session id; 0 for a persistent node
    created_ms: int
    modified_ms: int
    children: int
    pzxid: int = 0  # transaction that last created or deleted a child

    @property
    def zxid(self) -> int:
        """The last transaction that can be seen in the node."""
        return max(self.czxid, self.mzxid, self.pzxid)

    @property
    def is_ephemeral(self) -> bool:
        return self.ephemeral_owner != 0


@dataclass(frozen=True, slots=True)
class Node:
    value: bytes
    stat: Stat


@dataclass(frozen=True, slots=True)
class CheckOp:
    path: str
    version: int


@dataclass(frozen=True, slots=True)
class CreateOp:
    path: str
    value: bytes
    ephemeral: bool = False
    sequence: bool = False


@dataclass(frozen=True, slots=True)
class SetOp:
    path: str
    value: bytes
    version: int = ANY_VERSION


@dataclass(frozen=True, slots=True)
class DeleteOp:
    path: str
    version: int = ANY_VERSION


Op = CheckOp | CreateOp | SetOp | DeleteOp
