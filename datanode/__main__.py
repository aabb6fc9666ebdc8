"""``python -m stele.datanode --name dn1 --data-dir /var/lib/stele/dn1``: runs one datanode until it is told to stop."""

from __future__ import annotations

import sys

from stele.datanode.role import Datanode
from stele.services.config import DatanodeConfig
from stele.services.process import main

if __name__ == "__main__":
    sys.exit(main("datanode", DatanodeConfig, Datanode))
