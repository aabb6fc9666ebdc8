"""How a broker goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stele.broker.role import Broker
from stele.services.coordination.enrolment import Presence
from stele.services.errors import CoordinationUnknown, NameTaken, SteleError


@pytest.mark.parametrize("error", [NameTaken("somebody else's"), CoordinationUnknown("no answer")])
async def test_p30_a_drain_hands_over_whatever_is_wrong_with_the_registration(error: SteleError) -> None:
    done: list[str] = []

    def step(name: str, raises: SteleError | None = None) -> Any:
        async def carry_out(*_: object, **__: object) -> None:
            done.append(name)
            if raises is not None:
                raise raises

        return carry_out

    broker = Broker(SimpleNamespace(drain_timeout_s=1.0), SimpleNamespace(task_failed=print))  # type: ignore[arg-type]
    broker._server = SimpleNamespace(set_serving=lambda _: None, stop=step("port closed"))  # type: ignore[assignment]
    presence = Presence.__new__(Presence)
    presence._membership = SimpleNamespace(update=step("announced", error))  # type: ignore[assignment]
    broker._presence = presence
    broker._enrolment = SimpleNamespace(leave=step("left"))  # type: ignore[assignment]
    broker.partitions = SimpleNamespace(  # type: ignore[assignment]
        ownership=SimpleNamespace(owned={}), has_successor=False, drain=step("handed back")
    )
    await broker.drain()
    assert done == ["announced", "handed back", "left", "port closed"]
