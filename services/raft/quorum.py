"""What a majority is.  Pure.

Any two majorities of one set of voters have a voter in common: that is all that elections, commits and reads rely on.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def is_majority(stores: Collection[int], voters: Sequence[int]) -> bool:
    """Whether ``stores`` hold a majority of ``voters``; others among them are not counted."""
    return 2 * sum(store in stores for store in voters) > len(voters)


def committed(synced: list[int]) -> int:
    """The highest index that a majority has reached; ``synced``: of each voter, up to where it holds the log durably.

    A voter of whom nothing is known stands in the list with 0.  Left out, it would make the set, and so the majority, smaller
    than the one that elects the next leader, which then need not meet it."""
    return sorted(synced, reverse=True)[len(synced) // 2]
