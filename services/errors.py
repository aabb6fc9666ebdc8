"""The one error tree.  Pure.

Every failure that leaves a part is one of these classes.  Each says:

* ``code``      – the name of the gRPC status that carries it (services/rpc/status.py knows the status itself),
* ``definite``  – True: the operation had no effect.  False: the outcome is not known (it may have happened),
* ``retryable`` – True: the same call may succeed later, unchanged.  False: it never will.

``reason`` is the class name in UPPER_SNAKE; it travels as ``google.rpc.ErrorInfo.reason`` (services/rpc/status.py) or as
``stele.v1.Error.reason`` inside streams, with ``facts`` as its metadata.  Clients switch on the class, never on text.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import ClassVar

DOMAIN = "stele"


class Code(Enum):
    """The statuses of gRPC that errors travel under."""

    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"


_BY_REASON: dict[str, type[SteleError]] = {}


class SteleError(Exception):
    """Base of the tree; raised itself only for a reason that this version does not know."""

    code: ClassVar[Code] = Code.UNKNOWN
    definite: ClassVar[bool] = False
    retryable: ClassVar[bool] = False
    reason: ClassVar[str] = "STELE_ERROR"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, str] = {k: str(v) for k, v in facts.items() if v is not None}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.reason = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).upper()
        _BY_REASON[cls.reason] = cls

    def __str__(self) -> str:
        return self.message


def from_wire(reason: str, message: str, facts: dict[str, str] | None = None) -> SteleError:
    """The error that ``reason`` names; an unknown reason becomes a plain (indefinite, terminal) SteleError."""
    error = _BY_REASON.get(reason, SteleError)(message, **dict(facts or {}))
    if type(error) is SteleError:
        error.facts.setdefault("reason", reason)
    return error


# --- what the caller said -----------------------------------------------------------------------------------------


class InvalidArgument(SteleError):
    """A value is outside what is accepted; the message says what is.  Definite, terminal."""

    code, definite, retryable = Code.INVALID_ARGUMENT, True, False


class InvalidConfig(InvalidArgument):
    """Settings that contradict one another or cannot be read; the process does not start.  Definite, terminal."""


class MessageTooLarge(InvalidArgument):
    """A message, batch or entry exceeds its limit (fact ``bytes_max``).  Definite, terminal."""


class BatchCorrupt(InvalidArgument):
    """A batch's header or checksum does not fit its bytes; nothing was stored.  Definite, terminal."""


class OutOfOrderSequence(SteleError):
    """A producer's sequence leaves a gap (facts ``expected``, ``got``); the batch was not stored.  Definite, terminal:
    the producer resends from ``expected`` on."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class OffsetOutOfRange(SteleError):
    """The offset is below the first that is kept: retention has removed what was there (facts ``offset``, ``earliest``,
    ``latest``).  Definite, terminal for that offset: read on from ``earliest``."""

    code, definite, retryable = Code.OUT_OF_RANGE, True, False


# --- what exists --------------------------------------------------------------------------------------------------


class _NotFound(SteleError):
    code, definite, retryable = Code.NOT_FOUND, True, False


class NamespaceNotFound(_NotFound):
    """No such namespace.  Definite, terminal."""


class TopicNotFound(_NotFound):
    """No such topic (or it is being deleted).  Definite, terminal."""


class PartitionNotFound(_NotFound):
    """The topic has no partition of that number.  Definite, terminal."""


class SubscriptionNotFound(_NotFound):
    """No such subscription on that partition.  Definite, terminal."""


class GroupNotFound(_NotFound):
    """This store hosts no replica of that group: the caller's route is stale, or the replica is not created yet.
    Definite, retryable after a new lookup."""

    retryable = True


class SnapshotNotFound(_NotFound):
    """The replica does not have that snapshot any more (facts ``group``, ``index``): it will offer another.  Definite, terminal."""


class _Exists(SteleError):
    code, definite, retryable = Code.ALREADY_EXISTS, True, False


class NamespaceExists(_Exists):
    """A namespace of that name exists.  Definite, terminal."""


class NamespaceNotEmpty(SteleError):
    """The namespace has topics, those that are being deleted among them (fact ``topics``).  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class BundleNotFound(_NotFound):
    """No such bundle: the namespace is gone, or is cut in other places.  Definite, terminal."""


class BrokerNotFound(_NotFound):
    """No broker of that name is registered.  Definite, terminal."""


class TopicExists(_Exists):
    """A topic of that name exists.  Definite, terminal."""


class NotEnoughStores(SteleError):
    """Fewer stores are up than the replication asked for (facts ``up``, ``wanted``).  Definite, retryable."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True


class NotEnoughBrokers(SteleError):
    """No other broker could take what one has.  Definite, retryable."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True


# --- who is who ---------------------------------------------------------------------------------------------------


class NameTaken(_Exists):
    """Another live process holds the name (facts ``name``, ``endpoint``, ``session``).  Definite, terminal (R1.5, R5.5)."""


class NameNotFound(_NotFound):
    """No process was ever registered under the name, or it was removed.  Definite, terminal."""


class NameInUse(SteleError):
    """The name cannot be removed: a live process bears it, or a store (fact ``name``).  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class ClusterMismatch(SteleError):
    """The process or its data belong to another cluster (facts ``expected``, ``got``).  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class TopicMismatch(SteleError):
    """The replica is another topic's than the one that is meant (facts ``group``, and the topics' ids ``expected`` and ``got``).  Definite,
    terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class StoreTombstone(SteleError):
    """The store was removed for good (fact ``store_id``).  Definite, terminal (R2.3)."""

    code, definite, retryable = Code.NOT_FOUND, True, False


class StoreUnknown(SteleError):
    """No such store is known, or it has not registered yet (fact ``store_id``).  Definite, retryable (R2.4)."""

    code, definite, retryable = Code.NOT_FOUND, True, True


class StoreMismatch(SteleError):
    """The message was meant for another store (facts ``expected``, ``got``): resolve again.  Definite, retryable (R2.5)."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True


# --- who may ------------------------------------------------------------------------------------------------------


class NotLeader(SteleError):
    """This replica or nameserver does not lead (fact ``leader`` where known).  Definite, retryable elsewhere."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True


class NotOwner(SteleError):
    """This broker does not own the topic's bundle.  Definite, retryable after a new lookup."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True


class Fenced(SteleError):
    """A higher epoch has been seen (facts ``epoch``, ``seen``): the caller was deposed.  Definite, terminal (R5.10)."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class ConsumerBusy(SteleError):
    """The exclusive subscription has a consumer, or is in use as another type (facts ``type``, ``consumers``).
    Definite, retryable once it leaves."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True


class SubscriptionReset(SteleError):
    """The subscription was moved to another offset while this consumer was connected: subscribe again, what is delivered then
    begins there.  Definite, retryable."""

    code, definite, retryable = Code.ABORTED, True, True


class TopicReplaced(SteleError):
    """The topic of that name is another one than is meant, or this broker knows only the former one yet (facts ``expected``,
    ``got``: topic ids).  Definite, retryable after a new lookup."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True


class StaleAck(SteleError):
    """The message was delivered before its subscription was moved or made anew, or before its topic was: the acknowledgement counts
    for nothing, and what is still stored of it comes again.  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


# --- not now ------------------------------------------------------------------------------------------------------


class NotReady(SteleError):
    """The process or replica is still loading (facts ``loaded``, ``total``, ``retry_after_ms``).  Definite, retryable (R4.7)."""

    code, definite, retryable = Code.UNAVAILABLE, True, True


class Draining(SteleError):
    """The process is shutting down and takes nothing new.  Definite, retryable elsewhere."""

    code, definite, retryable = Code.UNAVAILABLE, True, True


class Unreachable(SteleError):
    """The peer could not be reached; nothing was sent.  Definite, retryable."""

    code, definite, retryable = Code.UNAVAILABLE, True, True


class ConnectionBroken(SteleError):
    """The connection broke after the request was sent.  Indefinite, retryable where the request is idempotent."""

    code, definite, retryable = Code.UNAVAILABLE, False, True


class Overloaded(SteleError):
    """A bounded queue is full (fact ``limit``).  Definite, retryable with backoff."""

    code, definite, retryable = Code.RESOURCE_EXHAUSTED, True, True


class Timeout(SteleError):
    """No answer before the deadline, after the request was sent (fact ``timeout_s``).  Indefinite, retryable where idempotent."""

    code, definite, retryable = Code.DEADLINE_EXCEEDED, False, True


class ProposalLost(SteleError):
    """Leadership was lost while the proposal was in flight; it may yet commit.  Indefinite, retryable where idempotent (H12)."""

    code, definite, retryable = Code.UNAVAILABLE, False, True


# --- storage ------------------------------------------------------------------------------------------------------


class DiskFull(SteleError):
    """The disk has no room: the replica takes no writes until space returns.  Definite, retryable."""

    code, definite, retryable = Code.RESOURCE_EXHAUSTED, True, True


class StorageFailed(SteleError):
    """A write or sync failed: the replica has stopped and does not vote or acknowledge.  Indefinite, terminal for this replica."""

    code, definite, retryable = Code.INTERNAL, False, True


class LogDamaged(SteleError):
    """Stored bytes fail their checks before the tail (facts ``path``, ``offset``): the replica is quarantined (R4.5).
    Definite, terminal for this replica."""

    code, definite, retryable = Code.DATA_LOSS, True, False


class MessagesLost(SteleError):
    """Every replica of the partition is damaged where these messages stand (facts ``topic``, ``partition``, ``first``, ``last``: offsets):
    nobody can read them.  Definite, terminal: read on behind ``last``."""

    code, definite, retryable = Code.DATA_LOSS, True, False


class DirectoryBusy(SteleError):
    """Another process has the data directory open (facts ``path``, ``owner``).  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class GroupDirectoryBusy(DirectoryBusy):
    """Another opener holds the group's directory lock (R3.5).  Definite, terminal."""


class GroupStopped(SteleError):
    """The group is stopping, was deleted, or its directory has vanished (R3.7).  Definite, retryable after a new lookup."""

    code, definite, retryable = Code.UNAVAILABLE, True, True


# --- coordination -------------------------------------------------------------------------------------------------


class CoordinationUnknown(SteleError):
    """ZooKeeper gave no answer (connection lost, session lost, timeout): nothing may be concluded from it (R1.1).
    Indefinite, retryable."""

    code, definite, retryable = Code.UNAVAILABLE, False, True


class CoordinationUnreachable(SteleError):
    """No ZooKeeper server could be reached at start (fact ``zookeeper``).  Definite, retryable."""

    code, definite, retryable = Code.UNAVAILABLE, True, True


class CoordinationRefused(SteleError):
    """ZooKeeper does not let this process in, or not at that record: its credentials, its certificate or ZooKeeper's own (fact
    ``zookeeper`` or ``path``).  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class RecordExists(_Exists):
    """A metadata record was to be created and is there already (fact ``path``).  Definite, terminal."""


class RecordMissing(_NotFound):
    """A metadata record was to be changed and is not there (fact ``path``).  Definite, terminal."""


class MetadataBehind(SteleError):
    """ZooKeeper holds an older copy of the cluster's records than the one that stores were told of (facts ``behind``, ``recorded``,
    ``seen``): nothing is done by it.  Restore the newer copy, or let `stele nameserver recover-metadata` go on with this one.
    Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class ImportRefused(SteleError):
    """A copy of the records was not imported: what is recorded is newer than it and would be lost (fact ``lost``), or another import is
    under way.  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class RecordUnreadable(SteleError):
    """A metadata record is not of its type, or of a later format than this version knows (fact ``path``).  Definite, terminal."""

    code, definite, retryable = Code.DATA_LOSS, True, False


class FormatUnknown(SteleError):
    """The cluster is at a record format that the process does not know (facts ``format``, ``known``): it does not join.  Definite,
    terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class UpgradeNotFinalized(SteleError):
    """The operation takes a record format that the cluster has not come to (facts ``needed``, ``format``), and changed nothing:
    `stele cluster finalize-upgrade` raises it once every process is of a version that knows it.  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class FinalizeRefused(SteleError):
    """A process knows only a lower record format than the others, or cannot be heard (fact ``members``): the cluster stays at the one
    that it is at.  Definite, retryable once that is mended."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, True


class VersionConflict(SteleError):
    """A metadata record changed since it was read (facts ``path``, ``version``): read again and decide anew.  Definite, retryable."""

    code, definite, retryable = Code.ABORTED, True, True


class LeadershipLost(SteleError):
    """The nameserver's write carried an epoch that is no longer the leader's; ZooKeeper refused it.  Definite, retryable
    at the new leader."""

    code, definite, retryable = Code.ABORTED, True, True


class NoLeader(SteleError):
    """No nameserver leads at this moment.  Definite, retryable."""

    code, definite, retryable = Code.UNAVAILABLE, True, True


# --- processes ----------------------------------------------------------------------------------------------------


class PortTaken(SteleError):
    """The port to listen on is in use (facts ``endpoint``).  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class ToolMissing(SteleError):
    """Something the command needs is not installed; the message says what to install.  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class InternalError(SteleError):
    """The peer met a fault of its own; its log says more under fact ``incident``.  Indefinite, terminal."""

    code, definite, retryable = Code.INTERNAL, False, False


class Unimplemented(SteleError):
    """The peer does not know the call: it is of another version or role.  Definite, terminal."""

    code, definite, retryable = Code.UNIMPLEMENTED, True, False
