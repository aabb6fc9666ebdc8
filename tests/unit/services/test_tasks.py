"""The tasks of one part: their failures are reported once, whenever they come, and none outlives ``cancel``."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from stele.services.tasks import Tasks, Threads, to_its_end
from tests.support.eventually import eventually


async def fail() -> None:
    raise RuntimeError("of itself")


async def fail_when_cancelled() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise RuntimeError("of itself")


@pytest.fixture
async def unhandled() -> list[str]:
    """What reaches the event loop's exception handler."""
    seen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(str(context.get("exception"))))
    return seen


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("work", [fail, fail_when_cancelled])
async def test_a_failure_is_reported_to_whoever_asked_for_it(work: Callable[[], Any], unhandled: list[str]) -> None:
    reported: list[tuple[str, str]] = []
    tasks = Tasks(lambda name, error: reported.append((name, str(error))))
    tasks.start(work(), "one")
    await settle()
    await tasks.cancel()
    assert reported == [("one", "of itself")]
    assert not unhandled


@pytest.mark.parametrize("work", [fail, fail_when_cancelled])
async def test_where_nobody_asked_it_reaches_the_event_loop(work: Callable[[], Any], unhandled: list[str]) -> None:
    tasks = Tasks()
    task = tasks.start(work(), "one")
    await asyncio.sleep(0)
    await tasks.cancel()
    await settle()
    del task
    assert unhandled == ["of itself"]


async def test_waiting_for_the_end_takes_no_failure_away(unhandled: list[str]) -> None:
    tasks = Tasks()
    tasks.start(fail())
    await tasks.finished()
    await settle()
    assert unhandled == ["of itself"]
    assert not tasks


async def test_a_cancellation_is_no_failure(unhandled: list[str]) -> None:
    reported: list[str] = []
    tasks = Tasks(lambda name, _: reported.append(name))
    tasks.start(asyncio.Event().wait())  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await tasks.cancel()
    await settle()
    assert not reported
    assert not unhandled


async def test_p21_work_that_is_kept_begins_again_after_each_failure(unhandled: list[str]) -> None:
    tasks, begun = Tasks(), 0

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise RuntimeError(f"failure {begun}")

    await tasks.keep(work, "kept")
    assert begun == 3
    assert unhandled == ["failure 1", "failure 2"]
    assert not tasks


async def test_p21_work_that_is_kept_ends_when_it_is_cancelled(unhandled: list[str]) -> None:
    tasks = Tasks()
    kept = tasks.keep(fail, "kept")
    await settle()
    await tasks.cancel()
    assert kept.cancelled()
    assert unhandled == ["of itself"]


async def test_work_goes_on_when_who_waits_gives_up_and_its_failure_is_looked_at() -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    go_on, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        ended.set()
        raise ValueError("too late")

    waiting = asyncio.ensure_future(to_its_end(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    go_on.set()
    await ended.wait()
    await asyncio.sleep(0)
    del waiting
    gc.collect()
    assert not reported


async def test_a_thread_ends_although_who_waits_gives_up_and_its_failure_is_looked_at() -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    threads, begun, go_on = Threads(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(60)
        raise ValueError("too late")

    waiting = asyncio.ensure_future(threads.run(work))
    await asyncio.to_thread(begun.wait, 60)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    go_on.set()
    await eventually(lambda: not threads._running)
    await threads.ended()
    del waiting
    gc.collect()
    assert not reported
