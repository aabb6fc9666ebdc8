"""A nameserver's wire in a process of its own, to be killed and frozen: ``python -m tests.integration.rpc.peer NAME PORT``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from stele.services.pb import nameserver_pb2 as pb
from stele.services.pb import nameserver_pb2_grpc
from stele.services.rpc.servers import Server

NAMESERVER = "stele.v1.Nameserver"


class Nameserver(nameserver_pb2_grpc.NameserverServicer):
    """Answers GetCluster at once, DeleteTopic never, and repeats its routing every 0.2 s."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def GetCluster(self, _request: Any, _context: Any) -> pb.GetClusterResponse:
        return pb.GetClusterResponse(answered_by=self.name)

    async def DeleteTopic(self, _request: Any, _context: Any) -> pb.DeleteTopicResponse:
        await asyncio.Event().wait()
        return pb.DeleteTopicResponse()

    async def WatchRouting(self, _request: Any, _context: Any) -> AsyncIterator[pb.Routing]:
        revision = 0
        while True:
            revision += 1
            yield pb.Routing(revision=revision, answered_by=self.name)
            await asyncio.sleep(0.2)


async def run(name: str, port: int) -> None:
    server = Server("127.0.0.1", port)
    server.add(nameserver_pb2_grpc.add_NameserverServicer_to_server, Nameserver(name), NAMESERVER)
    print(f"127.0.0.1:{await server.start()}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
