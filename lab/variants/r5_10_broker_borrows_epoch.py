"""Wrong on purpose (R5.10): a broker that is told of a higher owner epoch sends that one from then on, instead of giving up what it no
longer owns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stele.broker.partition_client import PartitionClient
from stele.services.errors import Fenced
from stele.services.pb import datanode_pb2
from stele.services.rpc.status import from_pb


class BorrowsEpoch(PartitionClient):
    def append(self, batches: Sequence[bytes]) -> asyncio.Future[datanode_pb2.AppendResponse]:
        return asyncio.ensure_future(self._append(batches))

    async def _append(self, batches: Sequence[bytes]) -> datanode_pb2.AppendResponse:
        response = await super().append(batches)
        error = from_pb(response.error)
        if isinstance(error, Fenced):
            self.epoch = int(error.facts["seen"])
            response = await super().append(batches)
        return response
