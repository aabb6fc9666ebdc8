"""Where the checks look into the product while a run lasts: at what replicas apply, at what clients take of the nameservers, and at what
they are delivered.

Guarantee: what is watched goes on as if nobody looked; afterwards everything is as before.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stele.broker.partition_client import PartitionClient
from stele.consumer import Consumer
from stele.datanode.replica import Replica
from stele.delivery_buffer import DeliveryBuffer
from stele.model import Message
from stele.nameserver.controller import Controller
from stele.nameserver.server import NameserverServicer
from stele.services.raft.group import Group
from stele.services.raft.membership import Members
from stele.services.rpc.nameservers import STALE_KEY, NameserverClient
from tests.simulation.cluster.ambient import resident

if TYPE_CHECKING:
    from tests.simulation.cluster.world import World


@contextlib.contextmanager
def watched(world: World) -> Iterator[None]:
    """For as long as a run lasts."""
    apply: Any = Replica.apply
    check_revision: Any = NameserverClient._check_revision
    confirmed: Any = DeliveryBuffer.confirmed
    delivered: Any = DeliveryBuffer.delivered
    look_up: Any = NameserverServicer.Lookup

    def applying(self: Replica, index: int, term: int, payload: bytes) -> Any:
        before = world.applied.before(self, payload)
        outcome = apply(self, index, term, payload)
        world.applied.after(self, index, term, payload, outcome, before)
        return outcome

    def confirming(self: Any, request_id: int) -> Any:
        request = confirmed(self, request_id)
        world.redelivered.confirmed(self, request)
        return request

    def delivering(self: Any, messages: Any) -> Any:
        taken = list(messages)
        world.redelivered.delivered(self, taken)
        return delivered(self, taken)

    def checking(self: Any, endpoint: str, answer: Any) -> None:
        revision = (answer.as_of.epoch, answer.as_of.zxid)
        try:
            check_revision(self, endpoint, answer)
        except BaseException:
            world.views.refused(self._never_back, revision)
            raise
        world.views.taken(self._never_back, revision)

    async def looking_up(self: Any, request: Any, context: Any) -> Any:
        answer = await look_up(self, request, context)
        if all(key != STALE_KEY for key, _ in context.invocation_metadata() or ()):
            world.views.answered(answer.as_of.zxid)
        return answer

    append: Any = PartitionClient.append
    reconcile: Any = Controller._reconcile

    async def reconciling(self: Controller) -> None:
        world.strike.round_begins()
        await reconcile(self)

    def appending(self: PartitionClient, batches: Any) -> Any:
        server = getattr(resident(), "server", None)
        if server is not None:
            world.checks.writes(server.config.name, self.route.bundle, self.epoch)
        return append(self, batches)

    change_members: Any = Group.change_members

    def changing(self: Group, members: Members) -> Any:
        for store_id in {*self.members.voters, *self.members.learners} - {*members.voters, *members.learners}:
            world.checks.removes(self.engine.group_id, store_id)
        return change_members(self, members)

    take: Any = Consumer._take

    def taking(self: Consumer) -> Message | None:
        message: Message | None = take(self)
        if message is not None:
            world.applied.delivered(self.subscription, message)
            world.ordered.taken(self.type, self.subscription, message)
        return message

    replaced: Any = (
        (Consumer, "_take", taking),
        (Replica, "apply", applying),
        (DeliveryBuffer, "confirmed", confirming),
        (DeliveryBuffer, "delivered", delivering),
        (NameserverClient, "_check_revision", checking),
        (NameserverServicer, "Lookup", looking_up),
        (PartitionClient, "append", appending),
        (Controller, "_reconcile", reconciling),
        (Group, "change_members", changing),
    )
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    for owner, name, ours in replaced:
        setattr(owner, name, ours)
    try:
        yield
    finally:
        for owner, name, theirs in before:
            setattr(owner, name, theirs)
