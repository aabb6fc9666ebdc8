"""Acknowledgements and batches that reach what is there now although they were meant for what was there before."""

from __future__ import annotations

from stele.batching import GivenUp, PartitionBatches, PromiseT
from stele.broker.owned_partitions import OwnedPartition, OwnedPartitions
from stele.broker.subscription import Subscription
from stele.delivery_buffer import DeliveryBuffer
from stele.routing import Router, TopicRoutes
from stele.services.errors import SteleError


class TakesAcksOfAnyGeneration(Subscription):
    """An offset is an offset: what was acknowledged before a seek counts after it."""

    def _check_generation(self, generation: int) -> None:
        pass


class RepeatsAcksAfterASeek(DeliveryBuffer[object]):
    """A new stream is a new stream, whatever became of the cursor meanwhile: what is not confirmed is sent again."""

    def opened(self, generation: int) -> list[object]:
        self.generation = generation
        return super().opened(generation)


class AcksWhatItOnceHeld(DeliveryBuffer[object]):
    """Whatever was ever received may be acknowledged."""

    def check(self, generation: int) -> None:
        pass


class SendsAgainWhatMayBeStored(PartitionBatches[PromiseT]):
    """What was not answered goes to the new topic, although the former one may have it."""

    def retire(self, error: SteleError) -> tuple[list[PromiseT], list[GivenUp[PromiseT]]]:
        unsent, given_up = super().retire(error)
        return [p for g in given_up for p in g.batch.promises] + unsent, []


class ServesWhoeverHasTheName(OwnedPartitions):
    """A topic is its name: what was meant for a former one is taken."""

    def _check_topic(self, topic: str, topic_id: int) -> None:
        pass


class GoesOnUnderItsOldEpoch(OwnedPartitions):
    """Whom a nameserver names as the owner is, whatever it has heard of since it stood still."""

    async def find(self, topic: str, partition: int, topic_id: int = 0, owner_epoch: int = 0) -> OwnedPartition:
        return await super().find(topic, partition, topic_id)


class BelievesWhoeverLags(Router):
    """The last answer counts, also of a nameserver that still speaks of the former topic."""

    def _is_former(self, routes: TopicRoutes, known: object) -> bool:
        return False
