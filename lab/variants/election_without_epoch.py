"""Wrong: a leader writes whatever it believes it may, with nothing in its transactions that a successor would have changed."""

from __future__ import annotations

from stele.services.coordination.election import Leadership
from stele.services.coordination.metadata import MetadataStore, Transaction


class LeadershipWithoutEpoch(Leadership):
    def transaction(self) -> Transaction:
        return MetadataStore(self._session).transaction()
