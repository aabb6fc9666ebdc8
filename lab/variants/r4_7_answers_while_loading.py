"""Wrong on purpose (R4.7): a replica that is not loaded answers as if it were empty."""

from __future__ import annotations

from stele.datanode.batch_reader import LocatedBatch
from stele.datanode.directory import GroupSpec
from stele.datanode.replica import Replica
from stele.datanode.store import Store


class _Eager(Replica):
    def read(self, offset: int, bytes_max: int) -> list[LocatedBatch]:
        return [] if self.group is None else super().read(offset, bytes_max)


class AnswersWhileLoading(Store):
    def _replica(self, spec: GroupSpec) -> Replica:
        return _Eager(spec, self.store_id, self._entry_bytes_max, self.disk)
