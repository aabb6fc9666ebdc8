"""How many files a process may have open.

Guarantee: after ``raise_file_limit`` it is as many as the system lets this process have without asking an administrator: a datanode
holds a few for each of its replicas, and the default of many systems, 1024, ends with a few hundred.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

WANTED: Final = 1 << 20  # where the system names no bound


def raise_file_limit() -> None:
    """The soft limit becomes the hard one, or stays as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_limit() -> int:
    """As it is now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return WANTED if soft == resource.RLIM_INFINITY else soft
