"""Wrong on purpose (R2.2): a new store gets the highest id in sight plus one, so that a removed store's id is given out again."""

from __future__ import annotations

from collections.abc import Iterable


class IdsFromTheLiving:
    def __init__(self, living: Iterable[int]) -> None:
        self._living = list(living)

    def __call__(self, counter: object, transaction: object) -> int:
        return max(self._living, default=0) + 1
