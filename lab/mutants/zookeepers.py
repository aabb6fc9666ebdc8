"""Connections to several ZooKeepers that take one of them for all, or wait for it as if there were no other."""

from __future__ import annotations

from typing import Any

from stele.services.coordination.kazoo_client import LeaseConnection


class TakesOneForAll(LeaseConnection):
    """What one server lacks is lost."""

    def _refused(self, seen: int) -> None:
        held = self.zxid_of_server()
        if 0 <= held < seen:
            self.client.on_forgotten(held, seen)


class WaitsForTheSilent(LeaseConnection):
    """A server that takes the connection gets the time that kazoo gives it."""

    def _invoke(self, timeout: float, request: Any, xid: int | None = None) -> Any:
        self.client.dial_timeout_s = timeout
        return super()._invoke(timeout, request, xid)
