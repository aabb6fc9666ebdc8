"""Listings of what there may be many of, fetched and shown page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, TypeVar

import typer

T = TypeVar("T")
LIMIT_MAX = (1 << 31) - 1
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", help="At most so many; else all.", min=1, max=LIMIT_MAX)
]


async def pages(
    fetch: Callable[[int, str], Awaitable[list[T]]],
    place: Callable[[T], str],
    per_page: int,
    limit: int | None,
    after: str,
) -> AsyncIterator[list[T]]:
    """``fetch(count, after)`` again and again, each time behind the ``place`` of the last one, until ``limit`` or the end."""
    left = LIMIT_MAX if limit is None else limit
    while left > 0:
        asked = min(left, per_page)
        page = await fetch(asked, after)
        if page:
            yield page
        if len(page) < asked:
            return
        after, left = place(page[-1]), left - len(page)
