"""Wrong on purpose (H7): the leader counts its own entries towards a majority before it has synced them."""

from __future__ import annotations

from stele.services.raft.engine import Engine


class CountsItself(Engine):
    def _advance_commit(self) -> None:
        journal = self.journal
        synced, journal.synced_index = journal.synced_index, journal.last_index
        try:
            super()._advance_commit()
        finally:
            journal.synced_index = synced
