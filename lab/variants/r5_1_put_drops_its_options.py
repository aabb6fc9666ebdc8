"""Wrong: a put that finds no node to set falls back to a create that has forgotten what was asked for."""

from __future__ import annotations

from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.records import ZnodeRecord, encode
from stele.services.errors import CoordinationUnknown, RecordMissing


class PutDropsItsOptions(MetadataStore):
    async def put(self, path: str, record: ZnodeRecord, *, ephemeral: bool = False, version: int | None = None) -> int:
        while True:
            try:
                return (await self.session.set(path, encode(record))).version
            except CoordinationUnknown:
                continue
            except RecordMissing:
                await self.session.create(path, encode(record))
                return 0


class RetryDropsItsOptions(MetadataStore):
    """Wrong: the first attempt is right; the one after a lost race or a lost connection is not."""

    async def put(self, path: str, record: ZnodeRecord, *, ephemeral: bool = False, version: int | None = None) -> int:
        try:
            if await self.session.get(path) is None:
                await self.session.create(path, encode(record), ephemeral=ephemeral)
                return 0
            return (await self.session.set(path, encode(record))).version
        except (RecordMissing, CoordinationUnknown):
            return await super().put(path, record)
