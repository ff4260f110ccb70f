"""The sender's client: one reply session per request, so that any process that knows the correlation ID can look."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self, Unpack

from azure.core.credentials_async import AsyncTokenCredential
from azure.servicebus.aio import ServiceBusClient
from pydantic import JsonValue

from flow_contracts.client.background import Background
from flow_contracts.client.bus import Bus, Deadlines, ReplySession, pauses
from flow_contracts.client.errors import ResultTimeout, ServiceBusTrouble, SessionInUse, Unreachable
from flow_contracts.client.sent import Sent, answers
from flow_contracts.client.submission import Options, request_of
from flow_contracts.message import ReceivedMessage
from flow_contracts.result import FlowResult, InvalidResult


class FlowClient:
    """Posts requests to run flows and finds their results. An async context manager; its methods may run concurrently.

    Beside what is said below, every method raises `Unreachable` or `Misconfigured` if Service Bus does not answer, or
    refuses.
    """

    def __init__(
        self,
        fully_qualified_namespace: str,
        credential: AsyncTokenCredential,
        *,
        request_queue: str = "flow-requests",
        reply_queue: str = "flow-replies",
        deadlines: Deadlines | None = None,
        senders: int = 4,
    ) -> None:
        """`credential` needs Azure Service Bus Data Sender on the request queue and Data Receiver on the reply queue.

        It stays the caller's to close. Up to `senders` requests are sent at a time, each on its own connection.
        """
        sdk = ServiceBusClient(fully_qualified_namespace, credential, retry_total=0)
        self._set_up(sdk, request_queue, reply_queue, deadlines, senders)

    @classmethod
    def from_connection_string(
        cls,
        connection_string: str,
        *,
        request_queue: str = "flow-requests",
        reply_queue: str = "flow-replies",
        deadlines: Deadlines | None = None,
        senders: int = 4,
    ) -> Self:
        """The same with a connection string, e.g. the emulator's."""
        client = cls.__new__(cls)
        sdk = ServiceBusClient.from_connection_string(connection_string, retry_total=0)
        client._set_up(sdk, request_queue, reply_queue, deadlines, senders)
        return client

    def _set_up(
        self, sdk: ServiceBusClient, request_queue: str, reply_queue: str, deadlines: Deadlines | None, senders: int
    ) -> None:
        self._bus = Bus(sdk, deadlines or Deadlines(), senders=senders)
        self._request_queue = request_queue
        self._reply_queue = reply_queue
        self._sent = Sent()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Nothing that was submitted is affected."""
        await self._bus.close()

    async def submit(self, flow: str, input: JsonValue = None, **options: Unpack[Options]) -> str:  # noqa: A002 - the contract's word
        """Post a request; returns its correlation ID once the broker has it. See `Options`.

        Raises `InvalidRequest` and `RequestTooLarge`.
        """
        request = request_of(flow, input, options, reply_to=self._reply_queue)
        self._sent.remember(request.correlation_id, request.message_id)
        await self._bus.send(self._request_queue, request.to_message())
        return request.correlation_id

    async def poll(self, correlation_id: str, *, message_id: str | None = None) -> FlowResult | None:
        """The result if it is there, left where it is. Takes about a second: it opens the session and closes it.

        `message_id`: the request's; default: what this client sent it under. Results of other requests, which name this
        session, are passed over; only a client that does not know the message ID takes any of the correlation ID.
        Raises `SessionInUse` while someone else looks into this session, and `InvalidResult`.
        """
        async with self._session(correlation_id) as session:
            found = await session.find(self._wanted(correlation_id, message_id))
        return FlowResult.from_message(found) if found else None

    async def wait(self, correlation_id: str, timeout: float, *, message_id: str | None = None) -> FlowResult:
        """The result as soon as it is there, left where it is; see `poll`. Lost connections are made anew.

        The session is held meanwhile. Raises `ResultTimeout` after `timeout` seconds, `SessionInUse`, `InvalidResult`.
        """
        trouble: ServiceBusTrouble | None = None
        wanted = self._wanted(correlation_id, message_id)
        try:
            async with asyncio.timeout(timeout):
                for pause in pauses(0.2, 3.0):
                    try:
                        async with self._session(correlation_id) as session:
                            found = await _found(session, wanted)
                        return FlowResult.from_message(found)
                    except SessionInUse as error:
                        if trouble is None:
                            raise
                        trouble = error  # our own lock, from before the connection broke
                    except Unreachable as error:
                        trouble = error
                    await asyncio.sleep(pause)
        except TimeoutError:
            raise ResultTimeout(correlation_id, timeout, trouble) from trouble
        raise AssertionError("pauses are endless")

    async def take(
        self, correlation_id: str, timeout: float = 0, *, message_id: str | None = None
    ) -> FlowResult | None:
        """The result, taken off the queue; None if it is not there within `timeout` seconds. See `poll`.

        Raises `SessionInUse`, and `InvalidResult` after the message was put into the dead-letter queue.
        """
        wanted = self._wanted(correlation_id, message_id)
        async with self._session(correlation_id) as session:
            found = await session.find(wanted)
            if found is None and timeout > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        found = await _found(session, wanted)
            return await _consume(session, found) if found else None

    def background(self, *, max_unclaimed: int = 10_000) -> Background:
        """For many requests at a time: one session for all results, handed to whoever waits. See `Background`."""
        return Background(self._bus, self._request_queue, self._reply_queue, max_unclaimed=max_unclaimed)

    def _wanted(self, correlation_id: str, message_id: str | None) -> Callable[[ReceivedMessage], bool]:
        sent_as = message_id or self._sent.message_id(correlation_id)

        def wanted(message: ReceivedMessage) -> bool:
            return message.correlation_id == correlation_id and _answers(message, sent_as)

        return wanted

    @contextlib.asynccontextmanager
    async def _session(self, correlation_id: str) -> AsyncIterator[ReplySession]:
        try:
            async with self._bus.session(self._reply_queue, correlation_id) as session:
                yield session
        except SessionInUse as error:
            raise SessionInUse(f"correlation ID '{correlation_id}': {error}") from error


def _answers(message: ReceivedMessage, message_id: str | None) -> bool:
    """Whether a message may be the result; what cannot be read is not passed over, but complained of."""
    try:
        return answers(FlowResult.from_message(message), message_id)
    except InvalidResult:
        return True


async def _found(session: ReplySession, wanted: Callable[[ReceivedMessage], bool]) -> ReceivedMessage:
    """Peeked, not received and abandoned: that would use up the message's deliveries."""
    for pause in pauses(0.05, 1.0):
        found = await session.find(wanted)
        if found is not None:
            return found
        await asyncio.sleep(pause)
        await session.keep_locked()
    raise AssertionError("pauses are endless")


async def _consume(session: ReplySession, found: ReceivedMessage) -> FlowResult:
    """Receive up to the message that was found, and settle that one alone."""
    others = []
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        delivery = await session.receive(5.0)
        if delivery is None:
            continue
        if delivery.message.sequence_number != found.sequence_number:
            others.append(delivery)
            continue
        try:
            result = FlowResult.from_message(delivery.message)
        except InvalidResult as error:
            await session.dead_letter(delivery, "invalid_result", str(error))
            raise
        await session.complete(delivery)
        for other in others:
            await session.abandon(other)
        return result
    raise Unreachable("the result was seen but could not be received within 30 s")
