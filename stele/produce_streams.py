"""The Produce streams of a client, one per broker, shared by all of its producers.

Guarantee: each batch that is sent is answered exactly once, in the order of sending within a partition; when a stream ends, what was
written fails with an indefinite error and what was not with a definite one.  At most the credit that the broker granted is unanswered.
"""

from __future__ import annotations

import asyncio
from typing import Any

from stele.services.errors import ConnectionBroken, SteleError, Unreachable
from stele.services.pb import broker_pb2, broker_pb2_grpc
from stele.services.rpc.channels import Channel, Channels
from stele.services.rpc.streams import ByteCredit, RequestStream

CONNECT_TIMEOUT_S = 2.0

ProduceStream = RequestStream[broker_pb2.ProduceRequest, broker_pb2.ProduceResponse]

_CREDIT: ByteCredit[broker_pb2.ProduceRequest, broker_pb2.ProduceResponse] = ByteCredit(
    granted=lambda first: first.credit_bytes, size=lambda request: len(request.batch)
)


class ProduceStreams:
    """By the broker's endpoint."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._streams: dict[str, ProduceStream] = {}

    def get(self, endpoint: str) -> ProduceStream:
        """The stream to a broker, opened at its first use and after it ended."""
        stream = self._streams.get(endpoint)
        if stream is None or stream.closed:
            stream = self._streams[endpoint] = RequestStream(
                endpoint,
                self._channels,
                _dial,
                connect_timeout_s=CONNECT_TIMEOUT_S,
                failure=lambda error, sent: _failure(endpoint, error, sent),
                credit=_CREDIT,
            )
        return stream

    async def close(self) -> None:
        await asyncio.gather(*(s.close() for s in self._streams.values()))


def _dial(channel: Channel) -> Any:
    return broker_pb2_grpc.BrokerStub(channel).Produce()  # type: ignore[no-untyped-call]


def _failure(endpoint: str, error: SteleError, sent: bool) -> SteleError:
    """What the stream ended with, as far as it is true for a request: a definite error says nothing of what was sent."""
    if sent:
        return error if not error.definite else ConnectionBroken(f"the stream to {endpoint} ended: {error}")
    return error if error.definite else Unreachable(f"the stream to {endpoint} ended before it was sent")
