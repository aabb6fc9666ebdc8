"""What the registered stores keep of what was deleted, asked of each of them now.

Guarantee: a store that does not answer in time delays nobody and is named with the reason.
"""

from __future__ import annotations

import asyncio
from typing import Any

from stele.nameserver.catalog import Catalog, Member
from stele.services.errors import SteleError
from stele.services.pb import datanode_pb2, datanode_pb2_grpc, nameserver_pb2
from stele.services.rpc.channels import Channels, call

ANSWER_WITHIN_S = 1.5  # less than a client gives one attempt


async def list_trash(catalog: Catalog, channels: Channels) -> list[nameserver_pb2.StoreTrash]:
    """By store id."""
    members = [member for _, member in sorted(catalog.live_stores.items())]
    return list(await asyncio.gather(*(_of(member, channels) for member in members)))


async def _of(member: Member, channels: Channels) -> nameserver_pb2.StoreTrash:
    found = nameserver_pb2.StoreTrash(store_id=member.store_id, name=member.name)
    stub: Any = datanode_pb2_grpc.DatanodeStub(channels.get(member.endpoint))  # type: ignore[no-untyped-call]
    request = datanode_pb2.ReadTrashRequest(to_store_id=member.store_id)
    try:
        answer = await call(stub.ReadTrash, request, ANSWER_WITHIN_S)
    except SteleError as e:
        found.problem = e.message
    else:
        found.replicas.extend(answer.replicas)
    return found
