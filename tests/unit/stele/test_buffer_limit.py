"""Memory for messages on their way: bounded, and given in the order of asking."""

from __future__ import annotations

import asyncio

import pytest

from stele.buffer_limit import BufferLimit


async def test_nobody_overtakes_who_was_let_in_and_has_not_gone_on_yet() -> None:
    limit, order = BufferLimit(10), []

    async def take(name: str, size: int) -> None:
        await limit.acquire(size)
        order.append(name)

    assert limit.try_acquire(10)
    waiting = asyncio.ensure_future(take("first", 4))
    await asyncio.sleep(0)
    limit.release(10)
    assert not limit.try_acquire(2), "there is room, and one before it"
    later = [asyncio.ensure_future(take(name, 2)) for name in ("second", "third")]
    await asyncio.wait_for(asyncio.gather(waiting, *later), 5)
    assert order == ["first", "second", "third"]
    assert (limit.used_bytes, limit.try_acquire(2)) == (8, True)


async def test_one_that_gives_up_just_as_it_is_let_in_holds_up_nobody() -> None:
    limit = BufferLimit(10)
    assert limit.try_acquire(10)
    waiting = asyncio.ensure_future(limit.acquire(10))
    await asyncio.sleep(0)
    limit.release(10)
    waiting.cancel()
    behind = asyncio.ensure_future(limit.acquire(3))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(behind, 5)
    assert limit.used_bytes == 3
    limit.release(3)
    assert limit.try_acquire(10)


async def test_who_waits_is_refused_once_there_is_no_hope() -> None:
    limit = BufferLimit(10)
    assert limit.try_acquire(10)
    waiting = asyncio.ensure_future(limit.acquire(1))
    await asyncio.sleep(0)
    limit.refuse_all(ValueError("closed"))
    with pytest.raises(ValueError, match="closed"):
        await waiting
    limit.release(10)
    assert limit.try_acquire(10)
