"""A nameserver that calls processes safe to stop carelessly."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import replace

from stele.nameserver.bundle_assignment import BrokerCandidate
from stele.nameserver.catalog import Catalog
from stele.nameserver.reports import Reports, leaders
from stele.nameserver.stop_safety import broker_reasons, nameserver_reasons, store_reasons
from stele.services.pb.datanode_pb2 import ReplicaStatus
from stele.services.pb.nameserver_pb2 import GetClusterResponse


def takes_registered_for_well(
    store_id: int, catalog: Catalog, reports: Reports, committed: Mapping[int, int]
) -> list[str]:
    """A registered store that does not answer is taken to hold and follow what its partitions' leaders say that it votes in."""
    filled = dict(reports)
    led = leaders(reports)
    whole = next((r for r in reports.values() if r.connected), None)
    for s in catalog.live_stores:
        if whole is not None and (s not in reports or not reports[s].connected):
            status = whole.status.__class__(store_id=s, state="ready", complete=True)
            voted = {
                g: ReplicaStatus(
                    group=g,
                    state="follower",
                    leader_store_id=k.store_id,
                    term=k.term,
                    commit_index=committed.get(g, 0),
                )
                for g, k in led.items()
                if k.confirmed and s in reports[k.store_id].replicas[g].voters
            }
            filled[s] = replace(whole, status=status, replicas=voted, strays={})
    return store_reasons(store_id, catalog, filled, committed)


def counts_what_is_registered(
    store_id: int, catalog: Catalog, reports: Reports, committed: Mapping[int, int]
) -> list[str]:
    """Only whether enough stores are registered is looked at, and not whether their replicas follow."""
    left = [s for s in catalog.live_stores if s != store_id]
    return [
        f"{p.topic}-{p.index}: too few stores"
        for p in catalog.partitions.values()
        if store_id in p.replicas and 2 * sum(s in left for s in p.replicas) <= len(p.replicas)
    ]


def waits_for_nobody(store_id: int, catalog: Catalog, reports: Reports, committed: Mapping[int, int]) -> list[str]:
    """A replica that follows counts, however much of the log it lacks."""
    return store_reasons(store_id, catalog, reports, dict.fromkeys(catalog.partitions, 0))


def counts_drained_brokers(
    broker: str, candidates: Mapping[str, BrokerCandidate], serving: Container[str]
) -> list[str]:
    """A broker that an operator has drained is taken for one that can be given bundles."""
    return broker_reasons(broker, {n: replace(b, drained=False) for n, b in candidates.items()}, serving)


def counts_who_answers(
    nameserver: str, registered: Collection[str], standing: Container[str], answers: Mapping[str, GetClusterResponse]
) -> list[str]:
    """A nameserver that answers is taken for one that can lead, whether it stands for election or not."""
    return nameserver_reasons(nameserver, registered, registered, answers)
