"""Appends to a partition that cannot remember any more of which entries only parts were stored.

An append whose batches are not all stored (a retry, a gap in the sequence) leaves an entry in the log of which the index has to
remember what is valid, for as long as the entry is kept.  That memory is bounded (datanode/offsets.py).  Once it is used up, the
replica that leads proposes only what is certain to be stored whole, and answers everything else from its state.

Guarantee: what it proposes is stored whole.  It waits until every append before is applied, and it leads with a state that is current, so
that nothing it does not know of comes between its look and the entry; an owner that is being deposed is refused at once (R5.10).
Requests keep their order.  An error is raised for a whole append only if nothing of it is stored; otherwise each batch has its own.

Not promised: speed.  One append is under way at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from stele.datanode import commands
from stele.datanode.commands import Appended, AppendOutcome, Refused
from stele.datanode.partition import PartitionState, fenced
from stele.services import batch
from stele.services.errors import SteleError


class Proposer(Protocol):
    """A group that leads and is current."""

    def propose(self, payload: bytes) -> asyncio.Future[object]: ...

    def read_index(self) -> asyncio.Future[int]: ...


class SerialAppends:
    """``current`` gives the group that leads, or raises; ``epoch`` is the highest owner epoch that was ever proposed here."""

    def __init__(self, partition: PartitionState, current: Callable[[], Proposer], epoch: Callable[[], int]) -> None:
        self._partition, self._current, self._epoch = partition, current, epoch
        self._turns = asyncio.Lock()
        self._under_way: set[asyncio.Task[object]] = set()

    @property
    def is_due(self) -> bool:
        """Also while some are waiting: what comes later must not overtake them."""
        return bool(self._under_way) or self._partition.offsets.is_crowded

    def append(
        self, owner_epoch: int, batches: Sequence[bytes], before: asyncio.Future[object] | None
    ) -> asyncio.Future[object]:
        """Ends with an AppendOutcome.  ``before`` is the append that was proposed last."""
        task = asyncio.get_running_loop().create_task(self._append(owner_epoch, batches, before))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    async def _append(
        self, owner_epoch: int, batches: Sequence[bytes], before: asyncio.Future[object] | None
    ) -> object:
        async with self._turns:
            if before is not None:
                await asyncio.wait({before})
            results: dict[int, Appended | Refused] = {}
            try:
                await self._append_parts(owner_epoch, batches, results)
            except SteleError as e:
                if not results:
                    raise
                # Told of the whole append it would call unstored what is stored by now.  Nothing behind it is tried: it would overtake.
                for i in range(len(batches)):
                    results.setdefault(i, Refused.of(e))
            return AppendOutcome(tuple(results[i] for i in range(len(batches))))

    async def _append_parts(
        self, owner_epoch: int, batches: Sequence[bytes], results: dict[int, Appended | Refused]
    ) -> None:
        chosen: dict[int, int] = {}  # position of a batch → its producer
        for i, b in enumerate(batches):
            header = batch.read_header(b, verify=False)
            if header.producer_id and header.producer_id in chosen.values():
                # What this one comes to depends on the one before it.
                results |= await self._store(owner_epoch, batches, list(chosen))
                chosen.clear()
            known = self._partition.producers.check(header)
            if isinstance(known, Refused):
                await self._leads_still()
            if known is None:
                chosen[i] = header.producer_id
            else:
                results[i] = known
        results |= await self._store(owner_epoch, batches, list(chosen))

    async def _leads_still(self) -> None:
        """Before a gap is told: a leader that was deposed unawares may lack what its successor has stored."""
        await self._current().read_index()

    async def _store(
        self, owner_epoch: int, batches: Sequence[bytes], chosen: list[int]
    ) -> dict[int, Appended | Refused]:
        group = self._current()
        if owner_epoch < self._epoch():
            raise fenced(owner_epoch, self._epoch())
        if not chosen:
            return {}
        outcome = await group.propose(commands.encode_append(owner_epoch, [batches[i] for i in chosen]))
        if isinstance(outcome, Refused):
            return {i: outcome for i in chosen}
        assert isinstance(outcome, AppendOutcome)
        return dict(zip(chosen, outcome.results, strict=True))
