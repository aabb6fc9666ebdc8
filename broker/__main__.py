"""``python -m stele.broker --name br1 --zookeeper 127.0.0.1:2181``: runs one broker until it is told to stop."""

from __future__ import annotations

import sys

from stele.services import own_process
from stele.services.extras import require_or_exit

if __name__ == "__main__":
    require_or_exit("server", "stele.broker")
    own_process.settle()
    from stele.broker.role import Broker
    from stele.services.config import BrokerConfig
    from stele.services.process import main

    sys.exit(main("broker", BrokerConfig, Broker))
