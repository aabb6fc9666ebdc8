"""Stele from Python: ``async with stele.connect("host:port") as client: …``; ``stele.sync`` is the same without asyncio.

Errors are classes of ``stele.services.errors``, re-exported here as far as a user meets them; each says ``definite`` (it had no effect) and
``retryable``.
"""

from __future__ import annotations

from stele.admin import Admin
from stele.client import Client, connect
from stele.consumer import Consumer
from stele.errors import ClientClosed, SendTimedOut
from stele.model import (
    BrokerInfo,
    ClusterInfo,
    Event,
    MemberInfo,
    Message,
    NameserverInfo,
    NamespaceInfo,
    PartitionInfo,
    ReplicaInfo,
    SendResult,
    StoreInfo,
    SubscriptionInfo,
    TopicInfo,
)
from stele.producer import Producer
from stele.services.errors import (
    ConsumerBusy,
    InvalidArgument,
    MessageTooLarge,
    NotEnoughStores,
    Overloaded,
    PartitionNotFound,
    SteleError,
    SubscriptionNotFound,
    Timeout,
    TopicExists,
    TopicNotFound,
    Unreachable,
)

__all__ = [
    "Admin",
    "BrokerInfo",
    "Client",
    "ClientClosed",
    "ClusterInfo",
    "Consumer",
    "ConsumerBusy",
    "Event",
    "InvalidArgument",
    "MemberInfo",
    "Message",
    "MessageTooLarge",
    "NameserverInfo",
    "NamespaceInfo",
    "NotEnoughStores",
    "Overloaded",
    "PartitionInfo",
    "PartitionNotFound",
    "Producer",
    "ReplicaInfo",
    "SendResult",
    "SendTimedOut",
    "SteleError",
    "StoreInfo",
    "SubscriptionInfo",
    "SubscriptionNotFound",
    "Timeout",
    "TopicExists",
    "TopicInfo",
    "TopicNotFound",
    "Unreachable",
    "connect",
]
