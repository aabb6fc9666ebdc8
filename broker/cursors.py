"""Cursors as the partition's state has them, and the subscriptions made of them."""

from __future__ import annotations

from stele.broker.subscription import Subscription
from stele.broker.subscription_effects import PersistAcks
from stele.services.pb import broker_pb2, datanode_pb2


def subscription_of(cursor: datanode_pb2.Cursor, log_start: int, end: int) -> Subscription:
    """The delivery state that goes on from ``cursor``."""
    acked = [(r.first, r.last) for r in cursor.acked]
    redelivered = [(r.first, r.last, r.count) for r in cursor.redelivered]
    return Subscription(cursor.subscription, cursor.ack_floor, acked, cursor.generation, log_start, end, redelivered)


def ack_of(subscription: str, acks: PersistAcks) -> datanode_pb2.AckCursorRequest:
    return datanode_pb2.AckCursorRequest(
        subscription=subscription,
        ranges=[datanode_pb2.OffsetRange(first=a, last=b) for a, b in acks.ranges],
        generation=acks.generation,
        redelivered=[datanode_pb2.Redelivered(first=a, last=b, count=n) for a, b, n in acks.redelivered],
    )


def start_of(
    request: broker_pb2.OpenSubscription | broker_pb2.CreateSubscriptionRequest,
) -> datanode_pb2.CreateCursorRequest:
    """Where a subscription that does not exist yet begins; at the end if nothing is said."""
    match request.WhichOneof("start"):
        case "offset":
            return datanode_pb2.CreateCursorRequest(offset=request.offset)
        case "earliest":
            return datanode_pb2.CreateCursorRequest(earliest=True)
        case _:
            return datanode_pb2.CreateCursorRequest(latest=True)
