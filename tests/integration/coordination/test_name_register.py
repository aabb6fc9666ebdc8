"""Names go only when nobody bears them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stele.services.coordination.members import Membership
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.name_register import list_names, remove_name
from stele.services.coordination.names import name_path, register_name
from stele.services.coordination.records import MemberRecord, NameRecord, StoreRecord
from stele.services.coordination.session import Session
from stele.services.coordination.znode import Op
from stele.services.errors import NameInUse, NameNotFound
from tests.support.zookeeper import Sessions

PATIENCE_S = 10.0
RECORD = NameRecord(endpoint="h:1", session=1)


async def test_a_name_goes_once_its_process_is_gone(sessions: Callable[[], Sessions]) -> None:
    cluster = sessions()
    session, process = await cluster.open(timeout_s=PATIENCE_S), await cluster.open(timeout_s=PATIENCE_S)
    hold = await register_name(process, "br1", "h:1")
    member = Membership(process, "brokers", "br1", MemberRecord(endpoint="h:1"))
    await member.register()
    assert [(n.name, n.endpoint, n.live, n.holder) for n in await list_names(session)] == [
        ("br1", "h:1", True, "brokers")
    ]
    with pytest.raises(NameInUse, match="registered under it, one of the brokers"):
        await remove_name(session, "br1")
    await member.unregister()
    with pytest.raises(NameInUse, match="a live process at h:1 holds it"):
        await remove_name(session, "br1")
    await hold.release()
    assert (await remove_name(session, "br1")).endpoint == "h:1"
    assert await list_names(session) == []
    with pytest.raises(NameNotFound):
        await remove_name(session, "br1")
    again = await register_name(process, "br1", "h:2")
    assert [n.endpoint for n in await list_names(session)] == ["h:2"]
    await again.release()


async def test_the_name_of_a_store_stays_until_the_store_is_removed(sessions: Callable[[], Sessions]) -> None:
    session = await sessions().open(timeout_s=PATIENCE_S)
    metadata = MetadataStore(session)
    await metadata.create(name_path("dn1"), RECORD)
    store = StoreRecord(name="dn1", state="up", uuid="u", registered_ms=1)
    await metadata.create("stores/1", store)
    with pytest.raises(NameInUse, match="store 1 has it, and is up: `stele store decommission dn1`"):
        await remove_name(session, "dn1")
    await metadata.put("stores/1", StoreRecord(name="dn1", state="tombstone", uuid="u", registered_ms=1))
    await remove_name(session, "dn1")


async def test_who_takes_the_name_meanwhile_keeps_it(sessions: Callable[[], Sessions]) -> None:
    """Between the look and the removal."""
    cluster = sessions()
    process = await cluster.open(timeout_s=PATIENCE_S)

    class Slow(Session):
        async def commit(self, ops: Sequence[Op], **more: Any) -> list[Any]:
            await register_name(process, "br1", "h:2")
            return await super().commit(ops, **more)

    await (await register_name(process, "br1", "h:1")).release()
    slow = Slow(cluster.hosts, cluster.cluster, PATIENCE_S)
    await slow.start(20)
    try:
        with pytest.raises(NameInUse, match="taken it meanwhile"):
            await remove_name(slow, "br1")
    finally:
        await slow.close()
    assert [(n.endpoint, n.live) for n in await list_names(process)] == [("h:2", True)]
