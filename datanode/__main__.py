"""``python -m stele.datanode --name dn1 --data-dir /var/lib/stele/dn1``: runs one datanode until it is told to stop."""

from __future__ import annotations

import sys

from stele.services import own_process
from stele.services.extras import require_or_exit

if __name__ == "__main__":
    require_or_exit("server", "stele.datanode")
    own_process.settle()
    from stele.datanode.role import Datanode
    from stele.services.config import DatanodeConfig
    from stele.services.process import main

    sys.exit(main("datanode", DatanodeConfig, Datanode))
