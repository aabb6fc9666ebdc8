"""Wrong on purpose (R4.4): everything is loaded at the same time, or one after the other."""

from __future__ import annotations

from collections.abc import Callable

from stele.datanode.store import Store


class LoadsAllAtOnce(Store):
    async def load(self, parallelism: int, loaded: Callable[[], None] = lambda: None) -> None:
        await super().load(1_000, loaded)


class LoadsOneByOne(Store):
    async def load(self, parallelism: int, loaded: Callable[[], None] = lambda: None) -> None:
        await super().load(1, loaded)
