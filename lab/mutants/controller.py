"""Leading nameservers of which nothing comes any more."""

from __future__ import annotations

from stele.nameserver.controller import Controller


class EndsWithItsFirstFault(Controller):
    """An error that nobody foresaw ends the rounds, and the process leads on without them."""

    async def _survive(self, what: str, error: Exception) -> None:
        raise error
