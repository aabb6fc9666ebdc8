"""``python -m stele.lab.demo``: runs the demonstration, as ``make demo`` does."""

from __future__ import annotations

import sys

from stele.services import own_process
from stele.services.extras import require_or_exit

if __name__ == "__main__":
    require_or_exit("lab", "stele.lab.demo")
    own_process.settle()
    from stele.lab.demonstration import main

    sys.exit(main())
