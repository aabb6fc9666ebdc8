"""One lock per key: in turn within a key, beside one another across keys, and nothing left behind."""

from __future__ import annotations

import asyncio

import pytest

from stele.services.keyed_lock import KeyedLock


async def test_tasks_of_one_key_take_turns_in_order() -> None:
    locks = KeyedLock[str]()
    inside: list[int] = []
    order: list[int] = []

    async def enter(number: int) -> None:
        async with locks.hold("a"):
            inside.append(number)
            order.append(number)
            await asyncio.sleep(0)
            assert inside == [number]
            inside.remove(number)

    await asyncio.gather(*map(enter, range(20)))
    assert order == list(range(20))
    assert len(locks) == 0


async def test_other_keys_do_not_wait() -> None:
    locks = KeyedLock[int]()
    async with locks.hold(1), locks.hold(2):
        assert 1 in locks
        assert 2 in locks
        assert 3 not in locks
    assert len(locks) == 0


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    locks = KeyedLock[int]()

    async def enter() -> None:
        async with locks.hold(1):
            await asyncio.sleep(3600)

    first, second, third = (asyncio.create_task(enter()) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    assert not third.done()
    first.cancel()
    third.cancel()
    await asyncio.wait({first, third})
    assert len(locks) == 0


async def test_a_failure_inside_lets_the_next_one_in() -> None:
    locks = KeyedLock[int]()
    with pytest.raises(ValueError, match="inside"):
        async with locks.hold(1):
            raise ValueError("inside")
    async with asyncio.timeout(5), locks.hold(1):
        pass
    assert len(locks) == 0
