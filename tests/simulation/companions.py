"""Other groups on the same stores: they share the links, the disks and the loops of the one that is checked in full.

Guarantee checked: every replica of a group applies the same, and once the faults are over each group commits: none starves behind those
it shares a link with.  Much is asked of one group at a time, so that a store that comes back is behind in all of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from stele.services.errors import NotReady, SteleError
from stele.services.raft.group import Group
from tests.simulation.clients import Call

if TYPE_CHECKING:
    from tests.simulation.process import Process, Store
    from tests.simulation.world import World

FIRST: Final = 8  # the one that is checked in full is 7
GAP_S: Final = 0.2
BURST: Final = 6
PAYLOAD_BYTES: Final = 3_000
AGAIN_S: Final = 0.3


class _Applied:
    """The state: a digest of all that was applied."""

    def __init__(self, group_id: int, seen: Callable[[int, int, bytes], None]) -> None:
        self._group_id, self._seen = group_id, seen
        self._digest = b""

    def apply(self, index: int, term: int, payload: bytes) -> object:
        self._digest = hashlib.sha256(self._digest + payload).digest()
        self._seen(self._group_id, index, self._digest)
        return index

    def apply_damaged(self, index: int, payload: bytes) -> bool:
        return False

    def snapshot(self) -> tuple[bytes, int]:
        return self._digest, 0

    def restore(self, state: bytes) -> None:
        self._digest = state


class Companions:
    def __init__(self, world: World, count: int, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self.ids = range(FIRST, FIRST + count)
        self._digests: dict[tuple[int, int], bytes] = {}  # group, index
        self._wanting = set(self.ids)  # groups that have not committed since the faults are over
        self.committed = 0

    async def open(self, process: Process) -> list[Group]:
        """Those of a store that has one of each."""
        registry, members = process.registry, self._world.first_members
        assert registry is not None
        if process.store.id not in members:
            return []
        for group_id in self.ids:
            registry.path(group_id).mkdir(parents=True, exist_ok=True)
        opened = (registry.create(group_id, members, _Applied(group_id, self._applied)) for group_id in self.ids)
        return list(await asyncio.gather(*opened))

    def _applied(self, group_id: int, index: int, digest: bytes) -> None:
        if self._digests.setdefault((group_id, index), digest) != digest:
            self._world.violated("states differ", f"group {group_id} holds another state after entry {index}")

    # --- what is asked of them --------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self.ids:
            self._world.scheduler.after(1.0, self._step)

    def _step(self) -> None:
        if self._world.healed:
            return
        group_id = self._rng.choice(self.ids)
        for _ in range(BURST):
            self._ask(group_id, self._rng.randbytes(PAYLOAD_BYTES), self._answered)
        self._world.scheduler.after(self._rng.expovariate(1 / GAP_S), self._step)

    def ask_all(self) -> None:
        """The faults are over: each is asked until it has committed something new."""
        for group_id in sorted(self._wanting):
            self._ask(group_id, b"healed", lambda _, error, of=group_id: self._answered_at_last(of, error))  # type: ignore[misc]
        if self._wanting:
            self._world.scheduler.after(AGAIN_S, self.ask_all)

    def _ask(self, group_id: int, payload: bytes, answered: Callable[[object, SteleError | None], None]) -> None:
        leader = self._leader(group_id)
        if leader is not None:
            Call(
                self._world, self._rng, leader.id, lambda process: _group(process, group_id).propose(payload), answered
            )

    def _answered(self, _: object, error: SteleError | None) -> None:
        self.committed += error is None

    def _answered_at_last(self, group_id: int, error: SteleError | None) -> None:
        if error is None:
            self._wanting.discard(group_id)

    def _leader(self, group_id: int) -> Store | None:
        found = [(g.term, s) for s in self._world.stores.values() if (g := _running(s, group_id)) and g.is_leader]
        return max(found, key=lambda led: led[0])[1] if found else None

    # --- the end ----------------------------------------------------------------------------------------------------------

    def starving(self) -> list[int]:
        return sorted(self._wanting)

    def converged(self) -> bool:
        return all(self._ends(group_id) for group_id in self.ids)

    def _ends(self, group_id: int) -> bool:
        groups = [_running(self._world.stores[i], group_id) for i in self._world.first_members]
        return (
            None not in groups
            and len({end for g in groups if g is not None for end in (g.last_index, g.applied_index)}) == 1
        )


def _running(store: Store, group_id: int) -> Group | None:
    registry = store.process.registry if store.process is not None else None
    return registry.get(group_id) if registry is not None else None


def _group(process: Process, group_id: int) -> Group:
    group = process.registry.get(group_id) if process.registry is not None else None
    if group is None:
        raise NotReady("loading")
    return group
