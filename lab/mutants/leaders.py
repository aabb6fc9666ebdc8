"""A nameserver that evens leaders out carelessly."""

from __future__ import annotations

from collections.abc import Container, Mapping

from stele.nameserver.catalog import Catalog
from stele.nameserver.effects import TransferLeadership
from stele.nameserver.leader_balance import Steadiness
from stele.nameserver.reconcile import led_by
from stele.nameserver.reports import LeaderReport, Reports


def evens_out_any_difference(
    catalog: Catalog,
    reports: Reports,
    leaders: Mapping[int, LeaderReport],
    groups: Container[int],
    stores: Container[int],
    transfers_max: int,
) -> list[TransferLeadership]:
    """A partition goes to whichever of its stores leads fewer than the one that leads it, were it by one, and follows or not."""
    led = led_by(leaders)
    found = []
    for group, leader in leaders.items():
        partition = catalog.partitions[group]
        fewest = min(partition.replicas, key=lambda s: led.get(s, 0))
        if led.get(fewest, 0) < led[leader.store_id]:
            found.append(TransferLeadership(leader.store_id, group, catalog.topics[partition.topic].topic_id, fewest))
    return found[:transfers_max]


class WaitsNoLonger(Steadiness):
    """A partition that was transferred may be transferred again as soon as any other."""

    def transferred(self, group: int) -> None:
        """It is forgotten."""
