"""What the client hands to its user: plain frozen values, in the words of the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SendResult:
    """Where a message is stored."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was delivered.  ``redelivery_count`` 0: it was not delivered before, as far as its broker knows.  ``topic_id``
    and ``generation`` say of which topic of that name, and under which position of the subscription: an acknowledgement counts for
    no other."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]
    timestamp_ms: int
    redelivery_count: int = 0
    topic_id: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class TopicInfo:
    topic: str
    id: int
    partitions: int
    replication: int
    state: str  # creating, ready, deleting
    created_ms: int
    retention_bytes: int = 0  # of each partition; 0: no bound
    retention_ms: int = 0  # 0: no bound
    racks: str = "prefer"  # require: replicas of a partition are on racks apart, or it gets none
    growing_to: int = 0  # partitions that it is to have, once each has a leader; 0: as many as it has


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    namespace: str
    bundles: int
    replication: int
    topics: int
    retention_bytes: int = 0  # of topics that ask for nothing else; 0: no bound
    retention_ms: int = 0


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """A registered process."""

    name: str
    endpoint: str
    advertised: str
    state: str  # loading, ready, draining
    version: str
    started_ms: int
    store_id: int = 0
    raft_endpoint: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    store_id: int
    endpoint: str  # "" while the store is not live
    state: str  # follower, candidate, leader, learner, recovering, loading, quarantined, failed, lost; "": its store has not reported
    term: int = 0
    commit_index: int = 0
    last_index: int = 0
    high_watermark: int = 0
    log_bytes: int = 0
    problem: str = ""
    log_start: int = 0  # first offset that it can be read from


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    topic: str
    partition: int
    group: int
    bundle: str
    broker: str  # "" while no broker owns it
    broker_address: str
    owner_epoch: int
    leader_store_id: int  # a hint; 0: none known
    replicas: tuple[ReplicaInfo, ...] = ()

    @property
    def high_watermark(self) -> int:
        """Offset after the last committed message, as far as any replica has reported."""
        return max((r.high_watermark for r in self.replicas), default=0)

    @property
    def log_start(self) -> int:
        """First offset that is kept, as far as any replica has reported."""
        return max((r.log_start for r in self.replicas), default=0)


@dataclass(frozen=True, slots=True)
class StoreInfo:
    store_id: int
    name: str
    state: str  # up, offline, tombstone
    live: bool
    member: MemberInfo | None
    status: str = ""  # loading, ready, draining, as the datanode says itself
    loaded: int = 0
    total: int = 0
    leaders: int = 0
    replicas: int = 0
    disk_free_bytes: int = 0
    problems: tuple[str, ...] = ()
    cordoned: bool = False  # it gets no replicas
    rack: str = ""  # none is known


@dataclass(frozen=True, slots=True)
class OrphanInfo:
    """A replica that no record speaks for: nobody reads or writes it, and nothing but an operator's word removes it."""

    store_id: int
    store: str  # name
    group: int
    topic: str
    topic_id: int  # 0: written before ids were known
    partition: int
    kind: str  # orphan: its group has no record; stranger: the record is another topic's
    log_bytes: int


@dataclass(frozen=True, slots=True)
class TrashedReplica:
    """A replica that was deleted and is kept for a while."""

    folder: str  # its name in the trash of its store's data directory
    group: int
    topic: str  # "": what it was cannot be read
    topic_id: int
    partition: int
    size_bytes: int
    age_ms: int  # for how long its store has kept it
    retention_ms: int  # for how long its store keeps what is deleted, unless its disk gets short of room


@dataclass(frozen=True, slots=True)
class TrashInfo:
    """What one registered store keeps of what was deleted, the oldest first."""

    store_id: int
    store: str  # name
    replicas: tuple[TrashedReplica, ...]
    problem: str = ""  # why it did not answer


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A replica that another store is to hold."""

    topic: str
    partition: int
    group: int
    source: int  # store id
    to: int
    log_bytes: int


@dataclass(frozen=True, slots=True)
class StayingReplica:
    """One that cannot move now."""

    topic: str
    partition: int
    group: int
    store_id: int
    why: str


@dataclass(frozen=True, slots=True)
class DecommissionPlan:
    """What moves off a store, as of now: it is made anew as moves end."""

    moves: tuple[PlannedMove, ...] = ()
    stays: tuple[StayingReplica, ...] = ()


@dataclass(frozen=True, slots=True)
class StayingReplicas:
    """Replicas of one store that stay for one reason."""

    store_id: int
    why: str
    count: int
    partitions: tuple[str, ...]  # ten of them at most


@dataclass(frozen=True, slots=True)
class RebalancePlan:
    """What moves so that no store has more replicas than its share, as of now: it is made anew as moves end."""

    moves: tuple[PlannedMove, ...] = ()
    stays: tuple[StayingReplicas, ...] = ()
    waits_for: str = ""  # why nothing moves at all now


@dataclass(frozen=True, slots=True)
class ExplainedReplica:
    store_id: int
    here: str  # why it is where it is
    next: str  # whether it moves, and why not


@dataclass(frozen=True, slots=True)
class PartitionExplanation:
    """Why a partition's replicas are where they are, and what becomes of them."""

    topic: str
    partition: int
    group: int
    leader: str
    replicas: tuple[ExplainedReplica, ...] = ()
    waits_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SkippedStore:
    """A tombstone that is not removed yet."""

    store_id: int
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class OperationInfo:
    """Something that the cluster's records say is to become otherwise."""

    id: str
    kind: str  # decommission, move, alter, rebalance
    cause: str  # of a move: operator, decommission, repair, balance, replication
    step: str  # what is done or waited for
    store_id: int = 0  # decommission
    topic: str = ""  # move, alter
    partition: int = 0
    group: int = 0
    joining: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()
    replicas_left: int = 0
    bytes_left: int = 0  # as far as they were reported
    problems: tuple[str, ...] = ()
    bytes_moved: int = 0  # of replicas that are being built
    lasts_ms: int = 0  # since it began; 0: not known


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    name: str
    live: bool
    member: MemberInfo | None
    bundles: tuple[str, ...] = ()
    drained: bool = False  # an operator's word: it gets no bundles


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """A part of a namespace: the partitions whose hash is in its range have one owner."""

    bundle: str
    broker: str  # "" while no live broker is meant
    epoch: int  # of the ownership; rises with each owner
    cause: str  # why it was given to that broker
    partitions: int


@dataclass(frozen=True, slots=True)
class StopSafety:
    """Whether a process could be stopped at the moment when the others were asked."""

    name: str
    role: str  # nameserver, datanode, broker; "" while no process of that name is registered
    safe: bool
    reasons: tuple[str, ...] = ()  # why not, one line each


@dataclass(frozen=True, slots=True)
class NameserverInfo:
    name: str
    member: MemberInfo
    leader: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    cluster: str
    cluster_id: str
    answered_by: str
    leader: str  # "" when none
    leader_epoch: int
    coordination_connected: bool
    nameservers: tuple[MemberInfo, ...]
    problems: tuple[str, ...] = ()  # of the cluster as a whole
    record_format: int = 0  # that it is at; 0: the nameserver does not say
    known_format: int = 0  # the highest that a registered process knows


@dataclass(frozen=True, slots=True)
class MemberFormat:
    """The highest record format that a process knows."""

    name: str
    kind: str  # nameservers, datanodes, brokers; "" where it is not registered and no store's
    knows: int  # 0: it is not registered
    version: str
    hindrance: str  # why the cluster cannot rise for it; "" nothing


@dataclass(frozen=True, slots=True)
class FinalizedUpgrade:
    before: int  # the record format that the cluster was at
    format: int  # that it is at now; of a dry run: that it would rise to
    members: tuple[MemberFormat, ...]


@dataclass(frozen=True, slots=True)
class SubscriptionInfo:
    topic: str
    partition: int
    subscription: str
    type: str  # exclusive, failover, shared; "" while nobody is connected
    ack_floor: int
    backlog: int
    unacked: int
    consumers: tuple[str, ...] = ()
    lag_ms: int | None = (
        None  # age of the oldest message of the backlog, by the time that its producer gave it; None: not known
    )


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in the cluster.  ``id`` names the occurrence, ``caused_by`` that of the event that it follows from, "" where
    none is known; ``time_ms`` is for people."""

    id: str
    time_ms: int
    kind: str
    subject: str
    facts: Mapping[str, str] = field(default_factory=dict)
    cause: str = ""
    caused_by: str = ""


@dataclass(frozen=True, slots=True)
class ChainStep:
    """One event of a chain.  ``event`` None: nobody remembers it any more, and nothing is said of what it followed from."""

    id: str
    event: Event | None = None
    at_ms: int | None = None  # since the first known event of the chain
    after_ms: int | None = None  # since the event that it follows from; None: that is not known
    waited_for: str = ""  # in that time


@dataclass(frozen=True, slots=True)
class CauseChain:
    """Why something is as it is: from the first sign that was seen to the first write after it.  No steps: that is not known any more."""

    subject: str
    about: str  # leader, owner, replicas; bundles that left it, bundles that came to it, process
    steps: tuple[ChainStep, ...]
    write_known: bool = True  # False: none is known after it


@dataclass(frozen=True, slots=True)
class Explained:
    """``unheard``: nameservers that did not answer, with the reason: what they alone saw is missing."""

    chains: tuple[CauseChain, ...]
    unheard: tuple[str, ...] = ()
