"""Wrong on purpose (R5.9): an owner lives as long as its name is written somewhere: registrations never expire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stele.nameserver import bundle_assignment
from stele.nameserver.bundle_assignment import Assign, BrokerCandidate
from stele.nameserver.catalog import BundleEntry, Member, MemberKind


def assign(
    wanted: Sequence[str], records: Mapping[str, BundleEntry], brokers: Mapping[str, BrokerCandidate]
) -> list[Assign]:
    remembered = {
        b.broker: BrokerCandidate(Member(MemberKind.BROKERS, b.broker, ""))
        for b in records.values()
        if b.broker not in brokers
    }
    return bundle_assignment.assign(wanted, records, {**remembered, **brokers})
