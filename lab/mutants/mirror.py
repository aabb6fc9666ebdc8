"""Copies of ZooKeeper's tree that lack what is there."""

from __future__ import annotations

from stele.services.coordination.mirror import Mirror, _Reading


class OverlooksReturns(Mirror):
    """What was absent when it was read counts as read, although its parent has listed it since."""

    def _is_unread(self, path: str, readings: dict[str, _Reading | None], whole: bool) -> bool:
        return path not in readings and (whole or path not in self._nodes)
