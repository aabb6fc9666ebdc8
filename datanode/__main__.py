"""``python -m datanode --name dn1 --data-dir /var/lib/stele/dn1``: runs one datanode until it is told to stop."""

from __future__ import annotations

import sys

from datanode.role import Datanode
from services.config import DatanodeConfig
from services.process import main

if __name__ == "__main__":
    sys.exit(main("datanode", DatanodeConfig, Datanode))
