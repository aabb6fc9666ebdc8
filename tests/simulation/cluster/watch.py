"""Where the checks look into the product while a run lasts: at what replicas apply, at what clients take of the nameservers.

Guarantee: what is watched goes on as if nobody looked; afterwards everything is as before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stele.datanode.replica import Replica
from stele.services.rpc.nameservers import NameserverClient

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World


@contextlib.contextmanager
def watched(world: World) -> Iterator[None]:
    """For as long as a run lasts."""
    apply: Any = Replica.apply
    check_revision: Any = NameserverClient._check_revision

    def applying(self: Replica, index: int, term: int, payload: bytes) -> Any:
        before = world.applied.before(self, payload)
        outcome = apply(self, index, term, payload)
        world.applied.after(self, index, term, payload, outcome, before)
        return outcome

    def checking(self: Any, endpoint: str, answer: Any) -> None:
        revision = (answer.as_of.epoch, answer.as_of.zxid)
        try:
            check_revision(self, endpoint, answer)
        except BaseException:
            world.views.refused(self._never_back, revision)
            raise
        world.views.taken(self._never_back, revision)

    replaced: Any = ((Replica, "apply", applying), (NameserverClient, "_check_revision", checking))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, ours in replaced:
        setattr(owner, name, ours)
    try:
        yield
    finally:
        for owner, name, theirs in before:
            setattr(owner, name, theirs)
