"""A channel is given back when nobody uses it, also where it leads back to the stubs on it."""

from __future__ import annotations

import gc
from typing import Any
from weakref import ref

from stele.services.pb.nameserver_pb2_grpc import NameserverStub
from stele.services.rpc.channels import Channel


async def test_a_channel_that_leads_back_to_its_methods_is_collected() -> None:
    channel: Any = Channel("127.0.0.1:1")
    channel.leads_to = NameserverStub(channel)  # as a waiting task does, by way of the event loop
    gone = ref(channel)
    await channel.close()
    del channel
    gc.collect()
    assert gone() is None
