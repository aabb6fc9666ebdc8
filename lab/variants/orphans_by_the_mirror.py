"""Wrong on purpose: a replica whose partition the mirror does not show is deleted without asking ZooKeeper."""

from __future__ import annotations

from stele.nameserver.controller import Controller
from stele.nameserver.reconcile import DropOrphan
from stele.nameserver.view import View


class TrustsTheMirror(Controller):
    async def _drop_orphans(self, suspects: list[DropOrphan], view: View) -> None:
        self._orders.submit(suspects, view.catalog.live_stores)
