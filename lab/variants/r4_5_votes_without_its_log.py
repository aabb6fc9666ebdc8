"""Wrong on purpose (R4.5): a replica whose log was lost starts empty and votes and counts as if it had never promised anything."""

from __future__ import annotations

from typing import Any

from stele.services.raft.engine import Engine


class VotesWithoutItsLog(Engine):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.recovering = False
