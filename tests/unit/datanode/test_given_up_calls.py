"""What a caller left behind when it gave up."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any, cast

from stele.datanode.server import DatanodeServicer
from stele.services.errors import GroupStopped
from stele.services.pb import datanode_pb2 as pb
from tests.support.eventually import eventually


async def test_the_failure_of_a_proposal_whose_caller_has_given_up_is_looked_at() -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    proposals: list[asyncio.Future[object]] = []

    def propose(_: object) -> asyncio.Future[object]:
        proposals.append(asyncio.get_running_loop().create_future())
        return proposals[-1]

    store = SimpleNamespace(replica=lambda group: SimpleNamespace(propose=propose))
    servicer = DatanodeServicer(cast(Any, store), cast(Any, None), cast(Any, None))
    context = SimpleNamespace(time_remaining=lambda: None)
    call = asyncio.ensure_future(servicer.Fence(pb.FenceRequest(group=1, owner_epoch=1), context))
    await eventually(lambda: proposals)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    proposals.pop().set_exception(GroupStopped("too late", group=1))
    await asyncio.sleep(0)
    del call
    gc.collect()
    assert not reported
