"""Wrong on purpose (R5.10): a broker of the same name is taken for the same process, and its epoch is not raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stele.nameserver import bundle_assignment
from stele.nameserver.bundle_assignment import Assign, BrokerCandidate
from stele.nameserver.catalog import BundleEntry


def assign(
    wanted: Sequence[str], records: Mapping[str, BundleEntry], brokers: Mapping[str, BrokerCandidate]
) -> list[Assign]:
    as_if_never_gone = {n: BrokerCandidate(replace(b.member, joined_zxid=0), b.pulse) for n, b in brokers.items()}
    return bundle_assignment.assign(wanted, records, as_if_never_gone)
