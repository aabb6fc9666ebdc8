"""Wrong on purpose (R2.1, R2.2): whatever is not registered is taken for removed, as at the cold start of a whole cluster."""

from __future__ import annotations

from stele.nameserver.view import View
from stele.services.errors import StoreTombstone, StoreUnknown
from stele.services.pb import nameserver_pb2


class UnknownIsTombstone(View):
    def resolve(self, store_id: int) -> nameserver_pb2.ResolveStoreResponse:
        try:
            return super().resolve(store_id)
        except StoreUnknown as e:
            raise StoreTombstone(e.message, store_id=store_id) from None


class TombstoneIsUnknown(View):
    """The other way round: what was removed is only "not found", for ever."""

    def resolve(self, store_id: int) -> nameserver_pb2.ResolveStoreResponse:
        try:
            return super().resolve(store_id)
        except StoreTombstone as e:
            raise StoreUnknown(e.message, store_id=store_id) from None
