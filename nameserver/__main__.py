"""``python -m stele.nameserver --name ns1 --zookeeper 127.0.0.1:2181``: runs one nameserver until it is told to stop."""

from __future__ import annotations

import sys

from stele.services import own_process
from stele.services.extras import require_or_exit

if __name__ == "__main__":
    require_or_exit("server", "stele.nameserver")
    own_process.settle()
    from stele.nameserver.role import Nameserver
    from stele.services.config import NameserverConfig
    from stele.services.process import main

    sys.exit(main("nameserver", NameserverConfig, Nameserver))
