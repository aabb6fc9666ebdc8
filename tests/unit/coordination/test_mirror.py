"""What copies of ZooKeeper's records say while it does not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs

from stele.services.coordination import mirror as mirrors
from stele.services.coordination.mirror import Mirror
from stele.services.coordination.session import SessionEvent, SessionState
from stele.services.errors import CoordinationUnknown
from stele.services.rarely import Rarely


async def _unanswered(path: str) -> None:
    await asyncio.sleep(0)
    raise CoordinationUnknown(f"sync {path}: ZooKeeper gave no answer", path=path)


async def test_p4_a_copy_is_behind_since_the_last_word_and_not_since_that_is_noticed() -> None:
    async def nothing(*_: object, **__: object) -> None:
        return None

    listeners: list[Any] = []

    def subscribe(listener: Any) -> Any:
        listeners.append(listener)
        return lambda: None

    session: Any = SimpleNamespace(
        relay=lambda callback: callback,
        subscribe=subscribe,
        sync=nothing,
        get=nothing,
        exists=nothing,
        state=SessionState.CONNECTED,
        request_timeout_s=1.0,
    )
    copy = Mirror(session, "leader", 0)
    await copy.start()
    assert copy.synced
    [follow] = listeners
    for state, unheard_s in ((SessionState.SUSPENDED, 6.0), (SessionState.LOST, 7.0)):
        follow(SessionEvent(state, 1, fenced=True, unheard_s=unheard_s))
        assert 6.0 <= copy.behind_s < 7.0
    await copy.stop()


async def test_copies_that_fall_behind_together_say_it_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(mirrors, "RETRY_DELAY_S", 0.001)
    session: Any = SimpleNamespace(
        relay=lambda callback: callback,
        subscribe=lambda _: lambda: None,
        sync=_unanswered,
        request_timeout_s=0.05,
    )
    behind = Rarely()
    with capture_logs() as lines:
        starting = [Mirror(session, path, 0, behind).start() for path in ("epoch", "leader", "stores")]
        ended = await asyncio.gather(*starting, return_exceptions=True)
    assert all(isinstance(error, CoordinationUnknown) for error in ended)
    assert [line["event"] for line in lines] == ["mirror_behind"]
