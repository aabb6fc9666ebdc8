"""A real process of a version that knows the first record format alone: ``python -m tests.support.older_process broker --name br9 …``.

The role and its settings are the product's; what it is told to know is less."""

from __future__ import annotations

import sys
from typing import Any

from stele.broker.role import Broker
from stele.datanode.role import Datanode
from stele.nameserver.role import Nameserver
from stele.services.config import BrokerConfig, DatanodeConfig, NameserverConfig
from stele.services.process import Role, Runtime, main

ROLES = {
    "nameserver": (NameserverConfig, Nameserver),
    "datanode": (DatanodeConfig, Datanode),
    "broker": (BrokerConfig, Broker),
}

if __name__ == "__main__":
    config_type, role_type = ROLES[sys.argv[1]]

    def build(config: Any, runtime: Runtime) -> Role:
        runtime.record_format = 1
        return role_type(config, runtime)

    sys.exit(main(sys.argv[1], config_type, build, sys.argv[2:]))
