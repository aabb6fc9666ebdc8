"""What each process of a run is told: in half of the runs every process something else, within what operators may set.

Values are small where a large one would only mean that what it bounds never happens in a few seconds.
"""

from __future__ import annotations

import random
from typing import Any

Drawn = random.Random | None


def node_settings(rng: Drawn) -> dict[str, Any]:
    if rng is None:
        return {}
    return {"session_timeout_s": rng.uniform(2.0, 8.0), "drain_timeout_s": rng.choice((0.0, 1.0, 10.0))}


def nameserver_settings(rng: Drawn, operations: bool) -> dict[str, Any]:
    """Replicas are evened out by themselves where ``operations`` are asked for: an older copy of ZooKeeper knows nothing of moves."""
    if rng is None:
        return {}
    return {
        "leader_balance_after_s": rng.choice((0.0, 0.5, 2.0, 10.0)),
        "leader_transfers_max": rng.choice((1, 8)),
        "replicas_differ_max": rng.choice((0, 1, 2)) if operations else 0,
    }


def datanode_settings(rng: Drawn) -> dict[str, Any]:
    if rng is None:
        return {}
    election_min_s = rng.uniform(0.4, 2.0)
    entry_bytes_max = rng.choice((4 << 10, 64 << 10, 1 << 20))
    return {
        "election_timeout_min_s": election_min_s,
        "election_timeout_max_s": election_min_s * rng.uniform(1.5, 3.0),
        "load_parallelism": rng.choice((1, 2, 4)),
        "entry_bytes_max": entry_bytes_max,
        "segment_bytes": max(entry_bytes_max, rng.choice((8 << 10, 64 << 10, 64 << 20))),
        "snapshot_bytes": 64 << 10,
        "snapshot_interval_s": rng.choice((0.5, 2.0, 600.0)),
        "retention_check_s": rng.choice((0.2, 1.0, 30.0)),
    }


def broker_settings(rng: Drawn) -> dict[str, Any]:
    if rng is None:
        return {}
    return {
        "produce_credit_bytes": rng.choice((64 << 10, 16 << 20)),
        "inflight_appends_max": rng.choice((1, 2, 8)),
        "ack_flush_interval_s": rng.choice((0.001, 0.03, 0.3)),
    }
