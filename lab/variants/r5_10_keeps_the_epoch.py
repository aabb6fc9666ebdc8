"""Wrong on purpose (R5.10): a broker of the same name is taken for the same process, and its epoch is not raised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stele.nameserver import bundle_assignment
from stele.nameserver.bundle_assignment import Assign, Broker
from stele.nameserver.catalog import Bundle


def assign(wanted: Sequence[str], records: Mapping[str, Bundle], brokers: Mapping[str, Broker]) -> list[Assign]:
    as_if_never_gone = {n: Broker(replace(b.member, joined_zxid=0), b.pulse) for n, b in brokers.items()}
    return bundle_assignment.assign(wanted, records, as_if_never_gone)
