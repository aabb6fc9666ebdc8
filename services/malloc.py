"""Python's garbage collector and the system's allocator, set for processes that make much that lives for milliseconds.

The collector: almost everything here is freed by counting references; it only looks for cycles, which are rare.  With its default
settings it spent a quarter of a busy datanode's processor time walking over entries, futures and messages that were all in use.

The allocator: by default glibc gives freed buffers back to the system at once and gets fresh pages for the next ones, each of which faults
and is cleared.  A batch of a mebibyte is copied a few times on its way; keeping the pages saved a tenth to a fifth of its processor time.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

YOUNG_OBJECTS_MAX: Final = 50_000  # made and not freed since the young were looked at: cycles of a few MiB may wait
YOUNG_ROUNDS: Final = 20  # until the middle-aged are looked at too
MIDDLE_ROUNDS: Final = 100  # until, at the earliest, the old ones are
KEPT_BYTES_MAX: Final = 64 << 20  # freed memory at the end of the heap that the process keeps
MAPPED_BYTES_MIN: Final = 32 << 20  # buffers from here on are mapped one by one; the most that glibc takes

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def tune() -> None:
    """Once, when everything is imported: what is there now stays, and is not walked over any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, YOUNG_ROUNDS, MIDDLE_ROUNDS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other allocators have their own ways
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
