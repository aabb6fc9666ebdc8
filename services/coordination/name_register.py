"""Names of processes, as ZooKeeper has them, and the end of those that nobody will bear again.

Guarantee: a name is removed only while nobody holds it, by ZooKeeper's own word: its record cannot be deleted while the node of a live
session stands below it, nor where it was written meanwhile.  Nothing rests on a name that is gone: whoever comes with it later writes it
anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stele.services.coordination.members import live
from stele.services.coordination.metadata import MetadataStore
from stele.services.coordination.names import guard_path, name_path
from stele.services.coordination.records import MemberRecord, NameRecord, StoreRecord
from stele.services.coordination.schema import KINDS, NAMES
from stele.services.coordination.session import Session
from stele.services.errors import NameInUse, NameNotFound, RecordMissing, VersionConflict

READS_AT_ONCE_MAX = 64


@dataclass(frozen=True, slots=True)
class RegisteredName:
    """``holder``: the kind of process that is registered under it; ``store_id``: of the store whose datanode bears it; 0: none."""

    name: str
    endpoint: str
    live: bool
    holder: str = ""
    store_id: int = 0
    store_state: str = ""

    @property
    def in_use(self) -> str:
        """Why it may not go; nothing: it may."""
        if self.holder:
            return f"a live process is registered under it, one of the {self.holder}"
        if self.live:
            return f"a live process at {self.endpoint} holds it"
        if self.store_id and self.store_state != "tombstone":
            return (
                f"store {self.store_id} has it, and is {self.store_state}: `stele store decommission {self.name}` and then "
                "`stele store remove-tombstone` remove a store that never comes back"
            )
        return ""


async def list_names(session: Session) -> list[RegisteredName]:
    """In order.  CoordinationUnknown."""
    metadata = MetadataStore(session)
    holders: dict[str, tuple[str, MemberRecord]] = {}
    for kind in KINDS:
        holders |= {name: (kind, record) for name, record in (await live(session, kind)).items()}
    stores = {
        found.record.name: (int(path), found.record)
        for path in await metadata.children("stores")
        if path.isdecimal() and (found := await metadata.get(f"stores/{path}", StoreRecord)) is not None
    }
    reads = asyncio.Semaphore(READS_AT_ONCE_MAX)

    async def one(name: str) -> RegisteredName | None:
        async with reads:
            record = await metadata.get(name_path(name), NameRecord)
            guard = await session.exists(guard_path(name))
        if record is None:
            return None
        holder, _ = holders.get(name, ("", None))
        store_id, store = stores.get(name, (0, None))
        state = store.state if store is not None else ""
        # One that is not ephemeral is a leftover, and no sign of life.
        alive = guard is not None and guard.is_ephemeral
        return RegisteredName(name, record.record.endpoint, alive, holder, store_id, state)

    listed = await asyncio.gather(*map(one, await metadata.children(NAMES)))
    return [name for name in listed if name is not None]


async def remove_name(session: Session, name: str) -> RegisteredName:
    """The name that was removed.  NameNotFound; NameInUse with the reason; CoordinationUnknown."""
    await session.sync()
    metadata = MetadataStore(session)
    record = await metadata.get(name_path(name), NameRecord)
    known = next((n for n in await list_names(session) if n.name == name), None)
    if record is None or known is None:
        raise NameNotFound(f"there is no name {name}", name=name)
    if known.in_use:
        raise NameInUse(f"the name {name} stays: {known.in_use}", name=name)
    guard = await session.exists(guard_path(name))
    transaction = metadata.transaction()
    if guard is not None:
        transaction.delete(guard_path(name), guard.version)
    try:
        await transaction.delete(name_path(name), record.version).commit()
    except (VersionConflict, RecordMissing):
        raise NameInUse(f"the name {name} stays: a process has taken it meanwhile", name=name) from None
    return known
