"""How a broker goes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stele.broker.role import Broker
from stele.services.errors import ClusterMismatch, CoordinationUnknown, NameTaken, SteleError


def going(failure: SteleError | None, update_raises: SteleError | None, still_owned: bool) -> tuple[Broker, list[str]]:
    done: list[str] = []

    def step(name: str, raises: SteleError | None = None) -> Any:
        async def carry_out(*_: object, **__: object) -> None:
            done.append(name)
            if raises is not None:
                raise raises

        return carry_out

    runtime = SimpleNamespace(task_failed=print, failure=failure)
    broker = Broker(SimpleNamespace(drain_timeout_s=600.0), runtime)  # type: ignore[arg-type]
    broker._server = SimpleNamespace(set_serving=lambda _: None, stop=step("port closed"))  # type: ignore[assignment]
    broker._presence = SimpleNamespace(update=step("announced", update_raises))  # type: ignore[assignment]
    broker._enrolment = SimpleNamespace(leave=step("left"))  # type: ignore[assignment]
    broker.partitions = SimpleNamespace(  # type: ignore[assignment]
        ownership=SimpleNamespace(owned={"bundle": 1} if still_owned else {}),
        has_successor=True,
        drain=step("handed back"),
    )
    return broker, done


@pytest.mark.parametrize("error", [NameTaken("somebody else's"), CoordinationUnknown("no answer")])
async def test_p30_a_drain_hands_over_whatever_is_wrong_with_the_registration(error: SteleError) -> None:
    broker, done = going(None, error, still_owned=False)
    await broker.drain()
    assert done == ["announced", "handed back", "left", "port closed"]


@pytest.mark.parametrize(
    ("failure", "update_raises"),
    [
        (NameTaken("somebody else's"), None),
        (ClusterMismatch("another cluster"), None),
        (None, NameTaken("somebody else's")),
    ],
)
async def test_p30_a_broker_whose_name_is_gone_waits_for_no_nameserver_to_take_its_bundles(
    failure: SteleError | None, update_raises: SteleError | None
) -> None:
    """Nobody learns that it drains.  What is acknowledged is written, and its clients are told."""
    broker, done = going(failure, update_raises, still_owned=True)
    async with asyncio.timeout(10):
        await broker.drain()
    assert done[-3:] == ["handed back", "left", "port closed"]
    assert ("announced" in done) is (failure is None)
