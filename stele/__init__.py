"""Stele from Python: ``async with stele.connect("host:port") as client: …``; ``stele.sync`` is the same without asyncio.

Every error is a class of ``stele``: ``except stele.TopicNotFound``.  Each says ``definite`` (it had no effect) and ``retryable``; all of
them are a ``SteleError``.  Importing this configures nobody's logging: what the client has to say goes to the standard logger ``stele``.
Nor does it change the process's environment: what gRPC itself writes to stderr (a line when a process forks, or a server breaks the rules)
is silenced by ``GRPC_VERBOSITY=NONE``, set before it is imported.  Fork before you connect: in a process that is forked beside a connected
client gRPC cannot be used, and connecting is refused there.

Whoever reads the code begins with ``client.py``, from which ``producer.py``, ``consumer.py`` and ``admin.py`` come; what is decided
stands apart from what carries it out (``batching.py``, ``delivery_buffer.py``, ``retry.py``).  ``stele.cli`` is the command,
``stele.local`` a cluster on this machine.  The other folders in here are links: the roles' code under the one name by which it is
imported; every process of a role passes through here, so that what is named below is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from stele import errors, sync
    from stele.admin import Admin
    from stele.client import Client, connect
    from stele.consumer import Consumer
    from stele.errors import ClientClosed, InputUnreadable, SendTimedOut
    from stele.model import (
        BrokerInfo,
        BundleInfo,
        ClusterInfo,
        Event,
        MemberInfo,
        Message,
        NameserverInfo,
        NamespaceInfo,
        PartitionInfo,
        ReplicaInfo,
        SendResult,
        StopSafety,
        StoreInfo,
        SubscriptionInfo,
        TopicInfo,
    )
    from stele.producer import Producer
    from stele.services.errors import (
        BatchCorrupt,
        BrokerNotFound,
        BundleNotFound,
        ClusterMismatch,
        ConnectionBroken,
        ConsumerBusy,
        CoordinationRefused,
        CoordinationUnknown,
        CoordinationUnreachable,
        DirectoryBusy,
        DiskFull,
        Draining,
        Fenced,
        FinalizeRefused,
        FormatUnknown,
        GroupDirectoryBusy,
        GroupNotFound,
        GroupStopped,
        ImportRefused,
        InternalError,
        InvalidArgument,
        InvalidConfig,
        LeadershipLost,
        LogDamaged,
        MessagesLost,
        MessageTooLarge,
        MetadataBehind,
        NameInUse,
        NameNotFound,
        NamespaceExists,
        NamespaceNotEmpty,
        NamespaceNotFound,
        NameTaken,
        NoLeader,
        NotEnoughBrokers,
        NotEnoughStores,
        NotLeader,
        NotOwner,
        NotReady,
        OffsetOutOfRange,
        OutOfOrderSequence,
        Overloaded,
        PartitionNotFound,
        PortTaken,
        ProposalLost,
        RecordExists,
        RecordMissing,
        RecordUnreadable,
        SnapshotNotFound,
        StaleAck,
        SteleError,
        StorageFailed,
        StoreMismatch,
        StoreTombstone,
        StoreUnknown,
        SubscriptionNotFound,
        SubscriptionReset,
        Timeout,
        ToolMissing,
        TopicExists,
        TopicMismatch,
        TopicNotFound,
        TopicReplaced,
        Unimplemented,
        Unreachable,
        UpgradeNotFinalized,
        VersionConflict,
    )

__version__ = "0.1.0"

__all__ = [
    "Admin",
    "BatchCorrupt",
    "BrokerInfo",
    "BrokerNotFound",
    "BundleInfo",
    "BundleNotFound",
    "Client",
    "ClientClosed",
    "ClusterInfo",
    "ClusterMismatch",
    "ConnectionBroken",
    "Consumer",
    "ConsumerBusy",
    "CoordinationRefused",
    "CoordinationUnknown",
    "CoordinationUnreachable",
    "DirectoryBusy",
    "DiskFull",
    "Draining",
    "Event",
    "Fenced",
    "FinalizeRefused",
    "FormatUnknown",
    "GroupDirectoryBusy",
    "GroupNotFound",
    "GroupStopped",
    "ImportRefused",
    "InputUnreadable",
    "InternalError",
    "InvalidArgument",
    "InvalidConfig",
    "LeadershipLost",
    "LogDamaged",
    "MemberInfo",
    "Message",
    "MessageTooLarge",
    "MessagesLost",
    "MetadataBehind",
    "NameInUse",
    "NameNotFound",
    "NameTaken",
    "NameserverInfo",
    "NamespaceExists",
    "NamespaceInfo",
    "NamespaceNotEmpty",
    "NamespaceNotFound",
    "NoLeader",
    "NotEnoughBrokers",
    "NotEnoughStores",
    "NotLeader",
    "NotOwner",
    "NotReady",
    "OffsetOutOfRange",
    "OutOfOrderSequence",
    "Overloaded",
    "PartitionInfo",
    "PartitionNotFound",
    "PortTaken",
    "Producer",
    "ProposalLost",
    "RecordExists",
    "RecordMissing",
    "RecordUnreadable",
    "ReplicaInfo",
    "SendResult",
    "SendTimedOut",
    "SnapshotNotFound",
    "StaleAck",
    "SteleError",
    "StopSafety",
    "StorageFailed",
    "StoreInfo",
    "StoreMismatch",
    "StoreTombstone",
    "StoreUnknown",
    "SubscriptionInfo",
    "SubscriptionNotFound",
    "SubscriptionReset",
    "Timeout",
    "ToolMissing",
    "TopicExists",
    "TopicInfo",
    "TopicMismatch",
    "TopicNotFound",
    "TopicReplaced",
    "Unimplemented",
    "Unreachable",
    "UpgradeNotFinalized",
    "VersionConflict",
    "__version__",
    "connect",
    "errors",
    "sync",
]

_SOURCES: Final = (  # the errors first: whoever catches one need not load the client
    "stele.services.errors",
    "stele.errors",
    "stele.model",
    "stele.client",
    "stele.producer",
    "stele.consumer",
    "stele.admin",
)


def __getattr__(name: str) -> object:
    if name in ("errors", "sync"):
        return import_module(f"stele.{name}")
    if name in __all__:
        for source in _SOURCES:
            module = import_module(source)
            if name in vars(module):
                found = globals()[name] = getattr(module, name)
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
