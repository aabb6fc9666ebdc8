"""Wrong on purpose (R2.6): whoever shows an id that was once given out is registered again, removed or not."""

from __future__ import annotations

from stele.nameserver.stores import StoreRegister
from stele.services.pb import nameserver_pb2


class WelcomesTheRemoved(StoreRegister):
    async def register(self, request: nameserver_pb2.RegisterStoreRequest) -> nameserver_pb2.RegisterStoreResponse:
        if request.store_id:
            return nameserver_pb2.RegisterStoreResponse(store_id=request.store_id, cluster_id=self._cluster_id)
        return await super().register(request)
