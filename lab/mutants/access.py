"""Processes that show themselves to ZooKeeper carelessly."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Self

from stele.services.config import AccessSettings
from stele.services.coordination.access import ZooKeeperAccess


class TrustsAnyServer(ZooKeeperAccess):
    """The connection is encrypted, with whomever."""

    @classmethod
    def of(cls, settings: AccessSettings, env: Mapping[str, str]) -> Self:
        access = super().of(settings, env)
        if access.tls is not None:
            access.tls.check_hostname, access.tls.verify_mode = False, ssl.CERT_NONE
        return access


class LeavesItToAll(ZooKeeperAccess):
    """The process says who it is, and what it makes is everybody's."""

    @property
    def acl(self) -> None:
        return
