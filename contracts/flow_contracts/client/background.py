"""Many requests at a time over one reply session, for integrations without a user who waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from types import TracebackType
from typing import Self, Unpack

from pydantic import JsonValue

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.client.mailbox import Arrival, Mailbox
from flow_contracts.client.other_results import OtherResults
from flow_contracts.client.request_builder import RequestOptions, build_request
from flow_contracts.client.result_check import ResultCheck
from flow_contracts.client.sending import send_until_accepted
from flow_contracts.client.sent_requests import SentRequests
from flow_contracts.client.tracing import Receipt, Receiving
from flow_contracts.message import ReceivedMessage
from flow_contracts.result import CONTRACT, FlowResult, InvalidResult, UnsupportedResult
from flow_contracts.servicebus import Delivery, ServiceBus, ServiceBusFailure, SessionReceiver

_log = logging.getLogger(__name__)

_PREFETCH = 100
_RECEIVE_SECONDS = 0.5
"""The wait of one receive, and so the longest time that closing takes. Nothing cancels a receive, because that leaves
the state of the link unknown.
"""
_MAX_DEAD_LETTERED = 100
"""Messages of others that one client dead-letters, so that a person can inspect them. It deletes the others: dead
letters never expire, and a sender who floods the session would fill the reply queue for everybody.
"""
_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS = 0.2, 5.0

_UNEXPECTED = ("unexpected_result", "The reader of this session did not send the request of this result.")
_INVALID = ("invalid_result", f"The application property 'contract' is not '{CONTRACT}'.")
_FORGED = ("forged_result", "The message has no valid MAC under the reply key of the request that it names.")
"""Dead-letter reasons with their descriptions."""


class Background:
    """Posts requests and returns each result to the caller that waits for its correlation ID.

    An async context manager. Its reply session has a random name, so that it is the only reader. After a lost
    connection it opens the same session again. It dead-letters a message that is not a result, that is forged, or that
    answers no request of this client. After the first 100 it deletes such messages.
    """

    def __init__(
        self,
        bus: ServiceBus,
        request_queue: str,
        reply_queue: str,
        *,
        send_seconds: float,
        max_unclaimed: int,
        check: ResultCheck,
        sent: SentRequests,
        others: OtherResults | None = None,
    ) -> None:
        self._bus = bus
        self._send_seconds = send_seconds
        self._request_queue = request_queue
        self._reply_queue = reply_queue
        self._mailbox = Mailbox(max_unclaimed, others)
        self._check = check
        self._sent = sent
        self._dead_lettered = 0
        self._stopping = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.session_id = f"background-{uuid.uuid4()}"

    async def __aenter__(self) -> Self:
        """Open the reply session. Raises `ServiceBusFailure`."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(opened), name=f"replies of {self.session_id}")
        try:
            await opened
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def submit(self, flow: str, input: JsonValue = None, **options: Unpack[RequestOptions]) -> str:  # noqa: A002 - the contract's word
        """Post a request; return its correlation ID once the broker accepted it. See `FlowClient.submit`.

        Raises `ValueError` if a request with this correlation ID is outstanding already.
        """
        request = build_request(
            flow, input, options, reply_to=self._reply_queue, session_id=self.session_id, key_for=self._sent.key_for
        )
        # Before the send: the result may arrive before the send returns.
        self._mailbox.expect(request)
        # Also for `FlowClient.poll`, whose caller may take the wrong object: it must not accept a forged result.
        self._sent.remember(request)
        try:
            await send_until_accepted(self._bus, self._request_queue, request.to_message(), self._send_seconds)
        except BaseException:
            self._mailbox.forget(request.correlation_id)
            raise
        return request.correlation_id

    async def wait(self, correlation_id: str, timeout: float) -> FlowResult:
        """Wait for the newest result. Only one call gets each result.

        After a person replayed the request, another call returns the result of the replay. So it is with the settling
        result of a request whose result is `unknown`.

        Raises `ResultTimeout` after `timeout` seconds; then the caller may wait again. Raises `NotOutstanding` if this
        client did not submit the request or has returned its result, or dropped it as the oldest of too many. Raises
        `UnsupportedResult` for a result of a later version, which the client dead-letters.
        """
        receiving = Receiving("receive", self._reply_queue)
        return _received(receiving, await self._mailbox.receive(correlation_id, timeout))

    async def wait_settled(self, correlation_id: str, timeout: float) -> FlowResult:
        """Wait until the newest result is another than `unknown`; see `wait` and `FlowClient.wait_settled`.

        After `timeout` seconds return the `unknown` result, unless an earlier call returned it; then raise
        `ResultTimeout`.
        """
        receiving = Receiving("receive", self._reply_queue)
        return _received(receiving, await self._mailbox.receive_settled(correlation_id, timeout))

    async def request(
        self,
        flow: str,
        input: JsonValue = None,  # noqa: A002 - the contract's word
        timeout: float = 60,
        **options: Unpack[RequestOptions],
    ) -> FlowResult:
        """Post a request and wait for its result, up to `timeout` seconds after the broker accepted it."""
        return await self.wait(await self.submit(flow, input, **options), timeout)

    async def _stop(self) -> None:
        self._stopping.set()
        # Wait for the reader instead of cancelling it: its receive ends within `_RECEIVE_SECONDS`.
        if self._reader is not None:
            await self._reader
        self._mailbox.close()

    async def _read(self, opened: asyncio.Future[None]) -> None:
        """Read the session until `_stop`; open it again after each failure. `opened` reports the first opening."""
        pauses = ExponentialBackoff(_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS, growth=1.6).pauses()
        while not self._stopping.is_set():
            try:
                # The session's lock, which `_pump` renews, covers prefetched messages. The worker must not prefetch:
                # outside a session, each prefetched message has its own lock, which would expire during the wait.
                async with self._bus.session_receiver(
                    self._reply_queue, self.session_id, prefetch=_PREFETCH
                ) as session:
                    pauses = ExponentialBackoff(_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS, growth=1.6).pauses()
                    if not opened.done():
                        opened.set_result(None)
                    await self._pump(session)
            except Exception as error:  # noqa: BLE001 - the callers that wait depend on this loop, whatever fails
                if not opened.done():
                    opened.set_exception(error)
                    return
                _log_lost(self.session_id, error)
                await self._pause(next(pauses))

    async def _pump(self, session: SessionReceiver) -> None:
        while not self._stopping.is_set():
            delivery = await session.receive(_RECEIVE_SECONDS)
            if delivery is not None:
                await self._deliver(session, delivery)
            await session.keep_locked()

    async def _deliver(self, session: SessionReceiver, delivery: Delivery) -> None:
        """Give the result to the mailbox, then settle the message.

        In this order no result is lost. If the settlement fails, the broker delivers the message again, and the mailbox
        recognises the redelivery.
        """
        message = delivery.message
        if self._mailbox.is_copy(message.message_id):
            return await session.complete(delivery)
        sent = self._mailbox.sent(message.correlation_id)
        if sent is None:
            # Without parsing the body: any sender can post any number of such messages.
            return await self._remove(session, delivery, *_refusal(message))
        if not self._check.accepts(message, sent.reply_key):
            return await self._remove(session, delivery, *_FORGED)
        try:
            result = FlowResult.from_message(message)
        except UnsupportedResult as error:
            # The caller learns why its result does not come. The message stays in the dead-letter queue, because no
            # later client reads this session.
            self._mailbox.fail(message.correlation_id or "", error)
            return await session.dead_letter(delivery, "unsupported_result", str(error))
        except InvalidResult as error:
            return await self._remove(session, delivery, "invalid_result", str(error))
        if self._mailbox.put(result, message.message_id, Receipt.of(message)):
            return await session.complete(delivery)
        return await self._remove(session, delivery, *_UNEXPECTED)

    async def _remove(self, session: SessionReceiver, delivery: Delivery, reason: str, description: str) -> None:
        """Dead-letter a message of somebody else, or delete it if there were many."""
        if self._dead_lettered >= _MAX_DEAD_LETTERED:
            return await session.complete(delivery)
        self._dead_lettered += 1
        return await session.dead_letter(delivery, reason, description)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _received(receiving: Receiving, arrival: Arrival) -> FlowResult:
    result, receipt = arrival
    if receipt is not None:
        with receiving.found(receipt):
            pass
    return result


def _refusal(message: ReceivedMessage) -> tuple[str, str]:
    return _UNEXPECTED if message.application_properties.get("contract") == CONTRACT else _INVALID


def _log_lost(session_id: str, error: Exception) -> None:
    if isinstance(error, ServiceBusFailure):
        _log.warning("The reply session %s was lost and is opened again: %s", session_id, error)
    else:
        _log.error("The reply session %s failed by an internal error and is opened again", session_id, exc_info=error)
