"""Requests and answers over one bidirectional stream: both ends, for every service that has such a stream.

``RequestStream`` is the client: it numbers requests, writes them in order, matches answers by number and fails what is left when the
stream ends.  ``AnswerPump`` is the handler: it reads requests while it yields answers.  ``while_reading`` is what a handler needs
whose responses are not one per request (Subscribe).

Nothing is sent twice here: whether a request may be repeated is for its sender to say.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import grpc

from stele.services.errors import ConnectionBroken, Overloaded, SteleError, Unreachable
from stele.services.rpc.channels import Channel, Channels
from stele.services.rpc.status import typed_errors
from stele.services.tasks import Tasks

REQUESTS_MAX = 100_000  # of one stream, unanswered


class Numbered(Protocol):
    """A message that carries the number of its request."""

    request_id: int


RequestT = TypeVar("RequestT", bound=Numbered)
AnswerT = TypeVar("AnswerT", bound=Numbered)
ReadT = TypeVar("ReadT")
SentT = TypeVar("SentT")
RequestT_contra = TypeVar("RequestT_contra", contravariant=True)
AnswerT_co = TypeVar("AnswerT_co", covariant=True)


class Call(Protocol[RequestT_contra, AnswerT_co]):
    """What a generated stub's method returns for a bidirectional stream."""

    async def read(self) -> AnswerT_co: ...

    async def write(self, request: RequestT_contra) -> None: ...

    def cancel(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class ByteCredit(Generic[RequestT, AnswerT]):
    """How much may be unanswered: the server's first message grants bytes, each request takes some until it is answered.  A request
    that is larger than the whole credit goes alone."""

    granted: Callable[[AnswerT], int]
    size: Callable[[RequestT], int]


class RequestStream(Generic[RequestT, AnswerT]):
    """The client of one stream; it is opened at construction, and once ``closed`` is true it takes no more.

    Guarantee: requests are written in the order of ``send``.  Each is answered, or failed when the stream ends, exactly once: what
    was written and not answered with an indefinite error, what was not written with a definite one.  A request whose future is
    cancelled before it was written is not sent.  With ``credit`` at most the granted bytes are unanswered.

    ``dial`` calls the method on a channel; ``connect_timeout_s`` bounds connecting and, once more, the wait for the credit.
    ``failure(error, sent)`` makes the error of one request of what the stream ended with; it must be indefinite for what was ``sent``.
    """

    def __init__(
        self,
        endpoint: str,
        channels: Channels,
        dial: Callable[[Channel], Call[RequestT, AnswerT]],
        *,
        connect_timeout_s: float,
        failure: Callable[[SteleError, bool], SteleError],
        credit: ByteCredit[RequestT, AnswerT] | None = None,
        requests_max: int = REQUESTS_MAX,
    ) -> None:
        self.endpoint = endpoint
        self.closed = False
        self._channels, self._dial = channels, dial
        self._connect_timeout_s = connect_timeout_s
        self._failure = failure
        self._credit = credit
        self._requests_max = requests_max
        self._last_id = 0
        self._unsent: deque[tuple[RequestT, asyncio.Future[AnswerT]]] = deque()
        self._sent: dict[int, tuple[int, asyncio.Future[AnswerT]]] = {}  # size and answer; the request itself is let go
        self._sent_bytes = 0
        self._granted_bytes = 0
        self._wake = asyncio.Event()
        self._failed: SteleError | None = None  # what ended the writing
        self._tasks = Tasks()  # neither of its two fails: whatever goes wrong is what its calls end with
        self._task = self._tasks.start(self._run(), f"stream {endpoint}")

    def send(self, request: RequestT) -> asyncio.Future[AnswerT]:
        """Numbers ``request`` and queues it; the answer, or a SteleError: Overloaded beyond ``requests_max``, what ``failure`` makes
        of the stream's end."""
        answer: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        if self.closed:
            answer.set_exception(Unreachable(f"the stream to {self.endpoint} is closed"))
        elif len(self._unsent) + len(self._sent) >= self._requests_max:
            limit = self._requests_max
            answer.set_exception(Overloaded(f"{limit} requests to {self.endpoint} are unanswered", limit=limit))
        else:
            self._last_id += 1
            request.request_id = self._last_id
            self._unsent.append((request, answer))
            self._wake.set()
        return answer

    async def close(self) -> None:
        """Ends the stream; what is unanswered fails."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._end(ConnectionBroken(f"the stream to {self.endpoint} was closed"))  # if its task had not begun

    # --- the stream -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        error: SteleError = ConnectionBroken(f"the stream to {self.endpoint} was closed")
        call: Call[RequestT, AnswerT] | None = None
        writing: asyncio.Task[None] | None = None
        try:
            channel = await self._channels.connected(self.endpoint, self._connect_timeout_s)
            call = self._dial(channel)
            if self._credit is not None:
                self._granted_bytes = self._credit.granted(await self._first(call))
            writing = self._tasks.start(self._write(call), f"stream-write {self.endpoint}")
            while True:
                self._answer(await self._read(call))
        except SteleError as e:
            error = e
        except Exception as e:
            error = self._report(e)
        finally:
            if writing is not None:
                writing.cancel()
            if call is not None:
                call.cancel()
            self._end(self._failed or error)

    def _report(self, error: Exception) -> SteleError:
        """Something that no call should end with."""
        asyncio.get_running_loop().call_exception_handler(
            {"message": f"the stream to {self.endpoint} failed", "exception": error, "task": self._task}
        )
        return ConnectionBroken(f"the stream to {self.endpoint} failed: {error!r}")

    async def _first(self, call: Call[RequestT, AnswerT]) -> AnswerT:
        """Before it nothing is written, so that its absence is definite."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                with typed_errors(sent=False):
                    first = await call.read()
        except TimeoutError:
            raise Unreachable(f"{self.endpoint} did not open a stream within {self._connect_timeout_s:g} s") from None
        if first is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise Unreachable(f"{self.endpoint} ended the stream")
        return first

    async def _read(self, call: Call[RequestT, AnswerT]) -> AnswerT:
        with typed_errors():
            answer = await call.read()
        if answer is grpc.aio.EOF:  # type: ignore[attr-defined]
            raise ConnectionBroken(f"{self.endpoint} ended the stream")
        return answer

    async def _write(self, call: Call[RequestT, AnswerT]) -> None:
        try:
            await self._write_unsent(call)
        except (SteleError, asyncio.InvalidStateError):
            return  # the call has ended; the reader learns why
        except Exception as e:
            # The reader would learn nothing, and wait for answers to what is never sent: it is ended too.
            self._failed = self._report(e)
            call.cancel()

    async def _write_unsent(self, call: Call[RequestT, AnswerT]) -> None:
        while True:
            while self._unsent and self._has_credit(self._unsent[0][0]):
                request, answer = self._unsent.popleft()
                if answer.done():
                    continue
                # Counted as sent BEFORE the write: from here on it may have arrived, and its failure is indefinite.
                size = self._size(request)
                self._sent[request.request_id] = size, answer
                self._sent_bytes += size
                with typed_errors():
                    await call.write(request)
            self._wake.clear()
            await self._wake.wait()

    def _has_credit(self, request: RequestT) -> bool:
        return self._credit is None or not self._sent or self._sent_bytes + self._size(request) <= self._granted_bytes

    def _size(self, request: RequestT) -> int:
        return self._credit.size(request) if self._credit is not None else 0

    def _answer(self, response: AnswerT) -> None:
        sent = self._sent.pop(response.request_id, None)
        if sent is None:
            return
        size, answer = sent
        self._sent_bytes -= size
        if self._unsent:
            self._wake.set()
        if not answer.done():
            answer.set_result(response)

    def _end(self, error: SteleError) -> None:
        """Closed BEFORE anything is failed, without a step of the event loop between: who is failed finds another stream."""
        self.closed = True
        sent, self._sent = self._sent, {}
        unsent, self._unsent = self._unsent, deque()
        for _, answer in sent.values():
            if not answer.done():
                answer.set_exception(self._failure(error, True))
        for _, answer in unsent:
            if not answer.done():
                answer.set_exception(self._failure(error, False))


# --- the handler --------------------------------------------------------------------------------------------------------


async def while_reading(
    responses: AsyncGenerator[SentT, None], reading: Coroutine[object, object, None]
) -> AsyncGenerator[SentT, None]:
    """Yields ``responses`` while ``reading`` runs beside them; when they have ended, raises what the reader failed with.  However it
    ends, the reader has ended too."""
    reader = asyncio.create_task(reading)
    try:
        async with aclosing(responses):
            async for response in responses:
                yield response
        if reader.done() and not reader.cancelled():
            reader.result()
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


class AnswerPump(Generic[ReadT, SentT]):
    """One handler's stream: ``async for answer in pump.run(requests, take)`` yields what ``pump.answer`` is given.

    Guarantee: answers leave in the order of ``answer``.  The stream ends when the client has ended and every request is answered, or
    then with what reading failed with.  ``take`` is awaited for one request after the other: while it waits nothing more is
    read, which holds the sender back.  Each request that was taken must be answered once, by whoever it was given to; what ``take``
    raises ends the reading, and that request has no answer.
    """

    def __init__(self) -> None:
        self.unanswered = 0  # requests
        self._answers: deque[SentT] = deque()
        self._wake = asyncio.Event()
        self._ended = False

    def run(
        self, requests: AsyncIterator[ReadT], take: Callable[[ReadT], Awaitable[None]]
    ) -> AsyncGenerator[SentT, None]:
        return while_reading(self._until_answered(), self._read(requests, take))

    def answer(self, answer: SentT) -> None:
        self.unanswered -= 1
        self._answers.append(answer)
        self._wake.set()

    async def _read(self, requests: AsyncIterator[ReadT], take: Callable[[ReadT], Awaitable[None]]) -> None:
        try:
            async for request in requests:
                self.unanswered += 1  # BEFORE it is taken: it may be answered at once
                try:
                    await take(request)
                except BaseException:
                    self.unanswered -= 1  # nobody was given it: whoever waited for its answer would wait for ever
                    raise
        finally:
            self._ended = True
            self._wake.set()

    async def _until_answered(self) -> AsyncGenerator[SentT, None]:
        while True:
            while self._answers:
                yield self._answers.popleft()
            if self._ended and not self.unanswered:
                return
            self._wake.clear()
            await self._wake.wait()
