"""Python's garbage collector, set for processes that make many objects which live for milliseconds.

Almost everything here is freed by counting references; the collector only looks for cycles, which are rare.  With its default settings
it spent a quarter of a busy datanode's processor time walking over entries, futures and messages that were all still in use.
"""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 100)
"""New objects until the young are looked at, and how often that happens until the older ones are: cycles of a few MiB may wait."""


def calm() -> None:
    """Once, when everything is imported: what is there now stays, and is not walked over any more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
