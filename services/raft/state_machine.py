"""What a group replicates."""

from __future__ import annotations

from typing import Protocol


class StateMachine(Protocol):
    """``apply`` is deterministic and answers a bad command with a result, never an exception (H11)."""

    def apply(self, index: int, term: int, payload: bytes) -> object: ...

    def apply_damaged(self, index: int, payload: bytes) -> bool:
        """Of the only replica that there is: some bytes of the entry have changed.  False, and nothing has changed, if the state behind it
        is not certain."""
        ...

    def snapshot(self) -> tuple[bytes, int]:
        """The state after what was applied, and how far it is by the machine's own measure."""
        ...

    def restore(self, state: bytes) -> None:
        """Becomes what ``snapshot`` gave.  ValueError if ``state`` is no state, and then nothing has changed."""
        ...
