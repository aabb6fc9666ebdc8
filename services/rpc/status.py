"""The error tree on the wire: typed both ways, never matched by text (R2.1).

Guarantee: an error of the tree that a handler raises is raised again at the caller with the same class and facts, and so with the same
definite and retryable.  What gRPC itself reports is mapped by code alone and conservatively: unless it is known that nothing was
sent, the outcome is indefinite.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from stele.services.errors import (
    DOMAIN,
    Code,
    ConnectionBroken,
    SteleError,
    Timeout,
    Unimplemented,
    Unreachable,
    from_wire,
)
from stele.services.pb import common_pb2

DETAILS_KEY = "grpc-status-details-bin"
MESSAGE_BYTES_MAX = (
    1024  # the message travels twice, percent-encoded and in the details; metadata is limited to 8 KiB in all
)
FACTS_BYTES_MAX = 2048
FACT_BYTES_MAX = 512
_NUMBERS = {code: int(grpc.StatusCode[code.name].value[0]) for code in Code}


def to_status(error: SteleError) -> Any:
    """The gRPC status that carries ``error``: its code, its message, and an ErrorInfo with reason and facts."""
    info = error_details_pb2.ErrorInfo(reason=_reason(error), domain=DOMAIN, metadata=_bounded_facts(error.facts))
    packed = any_pb2.Any()
    packed.Pack(info)
    status = status_pb2.Status(
        code=_NUMBERS[error.code],
        message=_cut(error.message, MESSAGE_BYTES_MAX),
        details=[packed],
    )
    return rpc_status.to_status(status)


def from_rpc_error(error: grpc.RpcError, sent: bool = True, timeout_s: float | None = None) -> SteleError:
    """The error of the tree that ``error`` carries, else the one that its code stands for.

    ``sent`` False says: the caller knows that the request never left, so the outcome is definite.
    """
    typed = _carried(error)
    if typed is not None:
        return typed
    code: grpc.StatusCode = error.code() if callable(getattr(error, "code", None)) else grpc.StatusCode.UNKNOWN
    text = (error.details() if callable(getattr(error, "details", None)) else None) or code.name
    if not sent:
        return Unreachable(f"could not be reached: {text}", code=code.name)
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            within = "" if timeout_s is None else f" within {timeout_s:g} s"
            return Timeout(f"no answer{within}", timeout_s=timeout_s)
        # INTERNAL: a fault of a peer of ours comes typed, so this one is of gRPC's own making.  It puts it in place of what the peer
        # ended a stream with, when the end fails a write that flow control holds back: nothing terminal may be concluded from it.
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.INTERNAL:
            return ConnectionBroken(f"the connection broke: {text}", code=code.name)
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unimplemented(f"the peer does not know this call: {text}", code=code.name)
        case _:
            return SteleError(f"{code.name}: {text}", code=code.name)


def task_is_cancelled() -> bool:
    """Whether a CancelledError means the running task, rather than a call or another task that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@contextmanager
def typed_errors(sent: bool = True, timeout_s: float | None = None) -> Iterator[None]:
    """Around a call, or reads and writes of a stream: whatever gRPC raises leaves as an error of the tree.  CancelledError leaves only
    where the running task is cancelled: a channel that is closed under a call cancels the call, not the task that waits for it."""
    try:
        yield
    except grpc.RpcError as e:
        raise from_rpc_error(e, sent=sent, timeout_s=timeout_s) from None
    except grpc.aio.UsageError as e:
        raise Unreachable(f"the channel is closed: {e}") from None
    except asyncio.CancelledError:
        if task_is_cancelled():
            raise
        closed = "the channel was closed, or the call given up, while it was under way"
        raise (ConnectionBroken(closed) if sent else Unreachable(closed)) from None


def to_wire(error: SteleError) -> common_pb2.Error:
    """``error`` as it travels inside a stream."""
    return common_pb2.Error(
        reason=_reason(error), message=_cut(error.message, MESSAGE_BYTES_MAX), metadata=_bounded_facts(error.facts)
    )


def from_pb(error: common_pb2.Error) -> SteleError | None:
    """The error inside a message of a stream; None where the field is not set."""
    return from_wire(error.reason, error.message, dict(error.metadata)) if error.reason else None


def _carried(error: grpc.RpcError) -> SteleError | None:
    trailing: Any = error.trailing_metadata() if callable(getattr(error, "trailing_metadata", None)) else None
    for key, value in trailing or ():
        if key != DETAILS_KEY:
            continue
        try:
            status = status_pb2.Status.FromString(value)
        except Exception:  # bytes that are no Status: some proxy's; the code still says something
            return None
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
                return from_wire(info.reason, status.message, dict(info.metadata))
    return None


def _reason(error: SteleError) -> str:
    """An unknown reason that was received is passed on as it came."""
    return error.facts.get("reason", error.reason) if type(error) is SteleError else error.reason


def _bounded_facts(facts: dict[str, str]) -> dict[str, str]:
    left, kept = FACTS_BYTES_MAX, {}
    for key, value in facts.items():
        short_key, short_value = _cut(key, FACT_BYTES_MAX), _cut(value, FACT_BYTES_MAX)
        left -= len(short_key.encode()) + len(short_value.encode())
        if left < 0:
            break
        kept[short_key] = short_value
    return kept


def _cut(text: str, bytes_max: int) -> str:
    """``text`` as valid UTF-8 of at most so many bytes."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > bytes_max:
        return encoded[: bytes_max - 3].decode("utf-8", "ignore") + "…"
    return encoded.decode()
