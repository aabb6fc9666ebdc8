"""Clients that outlive what they use: a producer and a consumer of the topic that is deleted and made anew again and again under one name.

* What they send is stored in one topic of the name at most, and, where it has a key, in the partition that the topic has for it.
* A consumer that stays open is given a topic's messages without a gap, from the first on.
"""

from __future__ import annotations

import asyncio
import random
import re
from typing import TYPE_CHECKING, Final

from stele.batching import partition_of_key
from stele.client import Client
from stele.errors import SteleError
from stele.producer import Producer
from stele.services.coordination.records import TopicRecord
from stele.services.errors import PartitionNotFound

if TYPE_CHECKING:
    from stele.datanode.replica import Replica
    from tests.simulation.cluster.process import Guest
    from tests.simulation.cluster.workload import Workload
    from tests.simulation.cluster.world import World

SUBSCRIPTION: Final = "outliving"
_VALUE: Final = re.compile(rb"outlives \S+ \d+ (\d?)\.")
RETRY_S, SEND_TIMEOUT_S = 0.3, 8.0
UNDER_WAY_MAX = 50


class Outliving:
    def __init__(self, world: World) -> None:
        self._world = world
        self._stored: dict[bytes, int] = {}  # value → group

    async def produce(self, guest: Guest, client: Client, workload: Workload, topic: str) -> None:
        rng = random.Random(f"outliving {guest.host} {self._world.options.seed}")
        under_way: set[asyncio.Task[None]] = set()
        number = 0
        async with client.producer(topic, send_timeout_s=SEND_TIMEOUT_S, linger_ms=2.0) as producer:
            while not workload.closing:
                number += 1
                key = b"" if rng.random() < 0.3 else b"%d" % rng.randrange(10)
                value = b"outlives %s.%d %d %s." % (guest.host.encode(), guest.pid, number, key)
                task = asyncio.ensure_future(self._send(guest, workload, producer, value, key))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                await asyncio.sleep(rng.uniform(0.0, 0.1))
                if len(under_way) > UNDER_WAY_MAX:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            if under_way:
                await asyncio.wait(under_way)

    async def _send(self, guest: Guest, workload: Workload, producer: Producer, value: bytes, key: bytes) -> None:
        try:
            await workload.call(guest, "send", producer.send(value, key=key or None), SEND_TIMEOUT_S)
        except SteleError as error:
            self._world.say("send failed", guest.host, f"{value.decode()}: {error!r}")
            if isinstance(error, PartitionNotFound):  # it has named none
                self._world.violated(
                    "wrong partition", f"{value!r} was sent to a partition that the topic has not: {error!r}"
                )

    async def consume(self, guest: Guest, client: Client, workload: Workload, topic: str) -> None:
        while not workload.closing:
            due: dict[tuple[int, int, int], int] = {}  # topic id, partition, generation → the next offset
            opened_at = 0  # the id of the topic that it was opened for
            try:
                async with client.consumer(topic, SUBSCRIPTION, type="exclusive", credit=20) as consumer:
                    opened_at = consumer._topic_id or 0
                    while not workload.closing:
                        message = await consumer.receive(1.0)
                        if message is None:
                            continue
                        at = (message.topic_id, message.partition, message.generation)
                        first = 0 if message.topic_id > opened_at else message.offset
                        if message.offset > due.get(at, first):
                            self._world.violated(
                                "gap", f"{message.offset} of {at} follows {due.get(at, first) - 1} at {guest.host}"
                            )
                        due[at] = max(due.get(at, 0), message.offset + 1)
                        consumer.ack_nowait(message)
            except SteleError as error:
                self._world.say("consumer ended", guest.host, f"{SUBSCRIPTION}: {error!r}")
                await asyncio.sleep(RETRY_S)

    def applied(self, replica: Replica, payload: bytes, topic: TopicRecord | None) -> None:
        """A batch is stored; ``topic`` None: it is not known any more."""
        group, spec = replica.spec.group, replica.spec
        partitions = topic.partitions if topic is not None else 0
        if topic is not None and topic.state == "creating":
            self._world.violated("written too early", f"{spec.topic} is written while it is being created")
        for found in _VALUE.finditer(payload):
            value, key = found[0], found[1]
            known = self._stored.setdefault(value, group)
            if known != group:
                self._world.violated("stored twice", f"{value!r} is in group {known}, and in group {group}")
            if key and partitions and partition_of_key(key, partitions) != spec.partition:
                self._world.violated(
                    "wrong partition",
                    f"{value!r} is in {spec.topic}-{spec.partition}, which has {partitions} partitions",
                )
