"""What a client, or any other process, takes of the nameservers' word: never anything older than what it took before.

The one exception is the product's own, and bounded: what is newer has been refused by everybody for as long as it says.  And no
nameserver answers from records that have been out of date for longer than its session lasts, as far as it could know: not where the
server of ZooKeeper that it asks lags so far behind the others, nor whoever asks for old answers where there are no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.services.rpc.never_back import REFUSED_MAX_S, Revision
from tests.simulation.cluster.ambient import resident
from tests.simulation.cluster.plan import FORGETS
from tests.simulation.zookeeper.tree import Created, Deleted, Written

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World

FOLLOWED = ("/stele/stele/topics/", "/stele/stele/bundles/")
MARGIN_S = 1.0


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

    def answered(self, zxid: int) -> None:
        """A nameserver answers a look-up, of who would not have an old answer, from what it had of ZooKeeper at ``zxid``."""
        world, running = self._world, resident()
        if running is None or set(FORGETS) & {fault.kind for fault in world.faults}:
            return
        asked = world.zookeeper.asked.get(running.host)
        since = world.now
        for txn in reversed(world.zookeeper.log):
            if txn.zxid <= zxid:
                break
            # From when on its server had it: one that lags answers as if nothing had happened, and that it lags nobody can tell.
            if any(isinstance(c, Created | Written | Deleted) and c.path.startswith(FOLLOWED) for c in txn.changes):
                since = asked.applied_at.get(txn.zxid, since) if asked is not None else since
        server = next((s for s in (*world.servers.values(), *world.doubles) if s.name == running.host), None)
        behind_s = world.now - since
        if server is not None and behind_s > server.config.session_timeout_s + MARGIN_S:
            world.violated("stale answer", f"{running.host} answers from what was overtaken {behind_s:.1f} s ago")

    def _now(self) -> float:
        running = resident()
        return running.loop.time() if running is not None else self._world.now
