"""Errors that the client adds to the tree of services/errors.py."""

from __future__ import annotations

from stele.services.errors import Code, SteleError


class ClientClosed(SteleError):
    """The client, producer or consumer was closed; nothing was sent.  Definite, terminal."""

    code, definite, retryable = Code.FAILED_PRECONDITION, True, False


class InputUnreadable(SteleError):
    """Standard input could not be read to its end; the whole lines before were sent.  Definite, terminal."""

    code, definite, retryable = Code.DATA_LOSS, True, False


class SendTimedOut(SteleError):
    """The message was refused, or could not be sent, until ``send_timeout_s`` had passed (fact ``last``: the last refusal).
    Definite, retryable: no attempt can have stored it."""

    code, definite, retryable = Code.DEADLINE_EXCEEDED, True, True
