"""The tree below ``/stele/<cluster>``: which nodes there are, what their values are, who writes them and who reads them.

``TREE`` is the whole of it; docs/reference/znodes.md is made from it, and a test compares it with a running cluster.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from stele.services.coordination.records import (
    BrokerRecord,
    BundleRecord,
    BuriedRecord,
    ClusterRecord,
    CounterRecord,
    DeletedTopicsRecord,
    EpochRecord,
    LeaderRecord,
    MemberRecord,
    NameRecord,
    NamespaceRecord,
    PartitionRecord,
    RebalanceRecord,
    StoreRecord,
    TopicRecord,
    ZnodeRecord,
)


class Lifetime(Enum):
    PERSISTENT = "persistent"
    EPHEMERAL = "ephemeral"  # goes with its writer's session
    SEQUENTIAL = "ephemeral, sequential"


@dataclass(frozen=True, slots=True)
class ZnodeKind:
    """One kind of node; ``<…>`` in its path stands for a name or an id."""

    path: str
    record: type[ZnodeRecord] | None  # what its value is; None: as ``value`` says
    writer: str
    readers: str
    lifetime: Lifetime = Lifetime.PERSISTENT
    value: str = ""

    @property
    def folders(self) -> tuple[str, ...]:
        """Nodes above it whose paths are the same in every cluster, from the top."""
        parts = self.path.partition("<")[0].split("/")[:-1]
        return tuple("/".join(parts[:length]) for length in range(1, len(parts) + 1))


CLUSTER, EPOCH, LEADER, ELECTION, NAMES, MEMBERS = "cluster", "epoch", "leader", "election", "names", "members"
CANDIDATE = "c-"
KINDS = ("nameservers", "datanodes", "brokers")
_LEADING, _VIEWS = "the leading nameserver", "nameservers, mirrored"

# fmt: off
TREE = (
    ZnodeKind(CLUSTER, ClusterRecord, "the first process of the cluster", "every process, at its start"),
    ZnodeKind(EPOCH, EpochRecord, "a nameserver that is elected", "every transaction of the leading nameserver checks its version"),
    ZnodeKind(LEADER, LeaderRecord, "a nameserver that is elected", _VIEWS, Lifetime.EPHEMERAL),
    ZnodeKind(f"{ELECTION}/{CANDIDATE}<sequence>", None, "a nameserver that stands for election", "nameservers: the lowest leads",
              Lifetime.SEQUENTIAL, "its name"),
    ZnodeKind(f"{NAMES}/<name>", NameRecord, "the process of that name", "processes that register the name"),
    ZnodeKind(f"{NAMES}/<name>/live", None, "the process of that name", "processes that register the name", Lifetime.EPHEMERAL,
              "empty: that it is there says that its session lives"),
    *(ZnodeKind(f"{MEMBERS}/{kind}/<name>", MemberRecord, f"a {kind[:-1]}", readers, Lifetime.EPHEMERAL)
      for kind, readers in zip(KINDS, (f"{_VIEWS}; datanodes and brokers, to find one", f"{_VIEWS}; a datanode of the same directory",
                                       f"{_VIEWS}; transactions that assign bundles check that it is there"), strict=True)),
    ZnodeKind("stores/alloc", CounterRecord, _LEADING, _LEADING),
    ZnodeKind("stores/buried", BuriedRecord, _LEADING, _VIEWS),
    ZnodeKind("stores/<store id>", StoreRecord, _LEADING, _VIEWS),
    ZnodeKind("groups/alloc", CounterRecord, _LEADING, _VIEWS),
    ZnodeKind("topics/alloc", CounterRecord, _LEADING, _LEADING),
    ZnodeKind("namespaces/<namespace>", NamespaceRecord, _LEADING, _VIEWS),
    ZnodeKind("topics/<namespace>", None, _LEADING, _VIEWS, value="empty: holds the namespace's topics"),
    ZnodeKind("topics/<namespace>/<topic>", TopicRecord, _LEADING, _VIEWS),
    ZnodeKind("deleted/topics", DeletedTopicsRecord, _LEADING, _VIEWS),
    ZnodeKind("partitions/<group>", PartitionRecord, _LEADING, _VIEWS),
    ZnodeKind("bundles/<namespace>", None, _LEADING, _VIEWS, value="empty: holds the namespace's bundles"),
    ZnodeKind("bundles/<namespace>/<range>", BundleRecord, _LEADING, _VIEWS),
    ZnodeKind("brokers/<name>", BrokerRecord, _LEADING, _VIEWS),
    ZnodeKind("operations/rebalance", RebalanceRecord, _LEADING, _VIEWS),
)
# fmt: on
PARENTS = tuple(dict.fromkeys(folder for kind in TREE for folder in kind.folders))
