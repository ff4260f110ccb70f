"""Many requests at a time over one reply session: for integrations that run by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from types import TracebackType
from typing import Self, Unpack

from pydantic import JsonValue

from flow_contracts.client.bus import Bus, Delivery, ReplySession, pauses
from flow_contracts.client.errors import ServiceBusTrouble
from flow_contracts.client.mailbox import Mailbox
from flow_contracts.client.submission import Options, request_of
from flow_contracts.result import FlowResult, InvalidResult

_log = logging.getLogger(__name__)

_PREFETCH = 100
_RECEIVE_SECONDS = 0.5
"""A receive is never cancelled, so this is also how long closing may take."""


class Background:
    """Posts requests and hands each result to whoever waits for its correlation ID. An async context manager.

    Its session has a random name and is read by it alone; after a lost connection the same session is opened again.
    A message in it that is no result, or that answers no request of this client's, goes to the dead-letter queue.
    """

    def __init__(self, bus: Bus, request_queue: str, reply_queue: str, *, max_unclaimed: int) -> None:
        self._bus = bus
        self._request_queue = request_queue
        self._reply_queue = reply_queue
        self._mailbox = Mailbox(max_unclaimed)
        self._stopping = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self.session_id = f"background-{uuid.uuid4()}"

    async def __aenter__(self) -> Self:
        """Raises `Unreachable` or `Misconfigured` if the reply queue cannot be opened."""
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

    async def submit(self, flow: str, input: JsonValue = None, **options: Unpack[Options]) -> str:  # noqa: A002 - the contract's word
        """Post a request; returns its correlation ID once the broker has it. See `FlowClient.submit`.

        Raises `ValueError` if a request with this correlation ID is outstanding already.
        """
        request = request_of(flow, input, options, reply_to=self._reply_queue, session_id=self.session_id)
        self._mailbox.expect(request.correlation_id, request.message_id)
        try:
            await self._bus.send(self._request_queue, request.to_message())
        except BaseException:
            self._mailbox.forget(request.correlation_id)
            raise
        return request.correlation_id

    async def wait(self, correlation_id: str, timeout: float) -> FlowResult:
        """The result, handed over once.

        Raises `ResultTimeout` after `timeout` seconds, and may be asked again; `NotOutstanding` if it was not submitted
        here, was handed over before, or was dropped as one too many unclaimed.
        """
        return await self._mailbox.get(correlation_id, timeout)

    async def request(
        self,
        flow: str,
        input: JsonValue = None,  # noqa: A002 - the contract's word
        timeout: float = 60,
        **options: Unpack[Options],
    ) -> FlowResult:
        """Post a request and wait for its result, `timeout` seconds from when the broker has it."""
        return await self.wait(await self.submit(flow, input, **options), timeout)

    async def _stop(self) -> None:
        self._stopping.set()
        if self._reader is not None:
            await self._reader
        self._mailbox.close()

    async def _read(self, opened: asyncio.Future[None]) -> None:
        """Read the session until told to stop, opening it again whenever it is lost."""
        attempts = pauses(0.2, 5.0)
        while not self._stopping.is_set():
            try:
                async with self._bus.session(self._reply_queue, self.session_id, prefetch=_PREFETCH) as session:
                    attempts = pauses(0.2, 5.0)
                    if not opened.done():
                        opened.set_result(None)
                    await self._pump(session)
            except Exception as error:  # noqa: BLE001 - whatever it was, those who wait depend on this loop
                if not opened.done():
                    opened.set_exception(error)
                    return
                _log_lost(self.session_id, error)
                await self._pause(next(attempts))

    async def _pump(self, session: ReplySession) -> None:
        while not self._stopping.is_set():
            delivery = await session.receive(_RECEIVE_SECONDS)
            if delivery is not None:
                await self._hand_over(session, delivery)
            await session.keep_locked()

    async def _hand_over(self, session: ReplySession, delivery: Delivery) -> None:
        """Handed over first: if completing it fails it comes again, and is known then."""
        try:
            result = FlowResult.from_message(delivery.message)
        except InvalidResult as error:
            await session.dead_letter(delivery, "invalid_result", str(error))
            return
        if self._mailbox.put(result):
            await session.complete(delivery)
        else:
            await session.dead_letter(
                delivery, "unexpected_result", "Nobody reading this session sent the request that this answers."
            )

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _log_lost(session_id: str, error: Exception) -> None:
    if isinstance(error, ServiceBusTrouble):
        _log.warning("reply session %s was lost and is opened again: %s", session_id, error)
    else:
        _log.error("reply session %s met a fault and is opened again", session_id, exc_info=error)
