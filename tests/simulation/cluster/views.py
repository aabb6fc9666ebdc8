"""What a client, or any other process, takes of the nameservers' word: never anything older than what it took before.

The one exception is the product's own, and bounded: what is newer has been refused by everybody for as long as it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.services.rpc.never_back import REFUSED_MAX_S, Revision
from tests.simulation.cluster.ambient import resident

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World


class Views:
    def __init__(self, world: World) -> None:
        self._world = world
        self._taken: dict[int, tuple[Any, Revision, float | None]] = {}  # by client: itself, revision, refusing since
        self.looked_at = self.went_back = 0

    def refused(self, client: Any, revision: Revision) -> None:
        known = self._taken.get(id(client))
        if known is not None and known[2] is None:
            self._taken[id(client)] = (client, known[1], self._now())

    def taken(self, client: Any, revision: Revision) -> None:
        self.looked_at += 1
        known = self._taken.get(id(client))
        if known is not None and revision < known[1]:
            self.went_back += 1
            refused_s = self._now() - known[2] if known[2] is not None else 0.0
            if refused_s < REFUSED_MAX_S - 1e-6:
                host = getattr(resident(), "host", "")
                self._world.violated(
                    "view went back",
                    f"{host} took {revision} after {known[1]}, which it had missed for {refused_s:.3f} s",
                )
        self._taken[id(client)] = (client, revision, None)

    def _now(self) -> float:
        running = resident()
        return running.loop.time() if running is not None else self._world.now
