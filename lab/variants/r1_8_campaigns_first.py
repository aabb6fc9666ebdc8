"""Wrong: the process campaigns, and shows itself, before its port is open."""

from __future__ import annotations

from stele.services.coordination.enrolment import Enrolment, Step


class CampaignsFirst(Enrolment):
    def order(self) -> list[Step]:
        return list(reversed(super().order()))
