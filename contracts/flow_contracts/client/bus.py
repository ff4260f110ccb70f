"""The SDK's senders and session receivers as a sender needs them: a deadline on every call, errors in our terms.

What azure-servicebus 7.15 makes necessary: senders are opened before use and lent to one task at a time (concurrent
first sends race), receivers are never shared, and every call is bounded here, for a frozen broker looks like an empty
queue. The SDK's own retries are off: what is retried, and how long, is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
    SessionCannotBeLockedError,
)

from flow_contracts.client.errors import Misconfigured, RequestTooLarge, SessionInUse, Unreachable
from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.servicebus.conversion import from_sdk, to_sdk

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_PEEK_PAGE = 50
_CLOSE_SECONDS = 5.0
_MAX_RENEWAL_PAUSE = 30.0
"""Renewing also proves that the broker still answers, so it is done this often even under long locks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long Service Bus is waited for, in seconds."""

    open_seconds: float = 30.0
    """Opening one sender or receiver, credentials included."""
    send_seconds: float = 30.0
    """Posting one request, with every attempt it takes."""
    answer_seconds: float = 15.0
    """Any one question to an open session: peek, receive beyond its wait, settle, renew."""
    session_seconds: float = 10.0
    """Trying again while another reader holds the session."""


def pauses(shortest: float, longest: float) -> Iterator[float]:
    """Growing pauses between attempts, in seconds."""
    return (min(shortest * 1.6**step, longest) for step in itertools.count())


class Bus:
    """One connection string or credential, and what is opened with it."""

    def __init__(self, sdk: ServiceBusClient, deadlines: Deadlines, *, senders: int) -> None:
        self._sdk = sdk
        self._deadlines = deadlines
        self._idle: list[ServiceBusSender] = []
        self._slots = asyncio.Semaphore(senders)

    async def send(self, queue: str, message: Message) -> None:
        """Returns once the broker has the message; sending it again after a lost answer is left to its message ID.

        Raises `Unreachable` after `send_seconds`, `Misconfigured`, `RequestTooLarge`.
        """
        seconds = self._deadlines.send_seconds
        trouble = Unreachable(f"'{queue}' did not accept a message within {seconds:g} s")
        try:
            async with asyncio.timeout(seconds):
                for pause in pauses(0.1, 2.0):
                    try:
                        return await self._send_once(queue, message)
                    except Unreachable as error:
                        trouble = error
                    await asyncio.sleep(pause)
        except TimeoutError:
            raise trouble from None

    async def _send_once(self, queue: str, message: Message) -> None:
        async with self._slots:
            sender = self._idle.pop() if self._idle else await self._open_sender(queue)
            try:
                await bounded(sender.send_messages(to_sdk(message)), self._deadlines.send_seconds, f"send to '{queue}'")
            except RequestTooLarge:
                self._idle.append(sender)
                raise
            except BaseException:
                await _close(sender)
                raise
            self._idle.append(sender)

    async def _open_sender(self, queue: str) -> ServiceBusSender:
        sender = self._sdk.get_queue_sender(queue)
        try:
            await bounded(sender.__aenter__(), self._deadlines.open_seconds, f"open a sender to '{queue}'")
        except BaseException:
            await _close(sender)
            raise
        return sender

    @contextlib.asynccontextmanager
    async def session(self, queue: str, session_id: str, *, prefetch: int = 0) -> AsyncIterator[ReplySession]:
        """The session, locked for this reader alone. Raises `SessionInUse`, `Unreachable`, `Misconfigured`."""
        sdk = await self._lock_session(queue, session_id, prefetch)
        try:
            yield ReplySession(sdk, self._deadlines.answer_seconds)
        finally:
            await _close(sdk)

    async def _lock_session(self, queue: str, session_id: str, prefetch: int) -> ServiceBusReceiver:
        give_up = time.monotonic() + self._deadlines.session_seconds
        for pause in pauses(0.1, 1.0):
            sdk = self._sdk.get_queue_receiver(queue, session_id=session_id, prefetch_count=prefetch)
            try:
                await bounded(sdk.__aenter__(), self._deadlines.open_seconds, f"open a session of '{queue}'")
                return sdk
            except SessionInUse:
                await _close(sdk)
                if time.monotonic() + pause >= give_up:
                    raise
            except BaseException:
                await _close(sdk)
                raise
            await asyncio.sleep(pause)
        raise AssertionError("pauses are endless")

    async def close(self) -> None:
        """Close whatever is open."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_close(sender) for sender in idle))
        await _close(self._sdk)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message on loan; `raw` is for settling it."""

    message: ReceivedMessage
    raw: ServiceBusReceivedMessage


class ReplySession:
    """A locked session of the reply queue, for one task at a time. Every method may raise `Unreachable`."""

    def __init__(self, sdk: ServiceBusReceiver, answer_seconds: float) -> None:
        self._sdk = sdk
        self._answer_seconds = answer_seconds
        self._renew_at = self._next_renewal()

    async def find(self, wanted: Callable[[ReceivedMessage], bool]) -> ReceivedMessage | None:
        """The first message that is wanted, looked at and left where it is."""
        first = 1
        while page := await self._peek(first):
            for message in page:
                if wanted(message):
                    return message
            first = page[-1].sequence_number + 1
        return None

    async def _peek(self, first: int) -> list[ReceivedMessage]:
        # Without a sequence number the SDK goes on where it last was: a second look would see nothing.
        found = await self._ask(self._sdk.peek_messages(_PEEK_PAGE, sequence_number=first), "peek")
        return [from_sdk(one) for one in found]

    async def receive(self, wait_seconds: float) -> Delivery | None:
        """The next message, None if none came within `wait_seconds`."""
        receiving = self._sdk.receive_messages(max_message_count=1, max_wait_time=wait_seconds)
        for raw in await bounded(receiving, wait_seconds + self._answer_seconds, "receive"):
            return Delivery(from_sdk(raw), raw)
        return None

    async def complete(self, delivery: Delivery) -> None:
        """Take the message off the queue."""
        await self._ask(self._sdk.complete_message(delivery.raw), "complete")

    async def abandon(self, delivery: Delivery) -> None:
        """Give the message back."""
        await self._ask(self._sdk.abandon_message(delivery.raw), "abandon")

    async def dead_letter(self, delivery: Delivery, reason: str, description: str) -> None:
        """Put the message aside for a person to look at."""
        settling = self._sdk.dead_letter_message(delivery.raw, reason=reason, error_description=description)
        await self._ask(settling, "dead-letter")

    async def keep_locked(self) -> None:
        """Renew the session's lock when half of it is over. To be called every second or so."""
        if time.monotonic() >= self._renew_at:
            await self._ask(self._sdk.session.renew_lock(), "renew the session's lock")
            self._renew_at = self._next_renewal()

    def _next_renewal(self) -> float:
        until = self._sdk.session.locked_until_utc
        left = (until - datetime.now(UTC)).total_seconds() if until else 0.0
        return time.monotonic() + min(max(left / 2, 0.5), _MAX_RENEWAL_PAUSE)

    async def _ask(self, call: Awaitable[_T], what: str) -> _T:
        return await bounded(call, self._answer_seconds, what)


async def bounded(call: Awaitable[_T], seconds: float, what: str) -> _T:
    """Await an SDK call under a deadline, and say in our errors how it failed."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except MessageSizeExceededError as error:
        raise RequestTooLarge(f"{what}: the message is larger than the queue takes; send less input") from error
    except SessionCannotBeLockedError as error:
        raise SessionInUse(f"{what}: another reader holds it; one at a time may look for this result") from error
    except (MessagingEntityNotFoundError, MessagingEntityDisabledError) as error:
        raise Misconfigured(f"{what}: there is no such queue, or it is disabled; check its name") from error
    except (ServiceBusAuthenticationError, ServiceBusAuthorizationError) as error:
        if _is_missing(error):
            raise Misconfigured(f"{what}: there is no such queue; check its name") from error
        raise Misconfigured(
            f"{what}: not authorised; check the credential and its Service Bus role on the queue"
        ) from error
    except TimeoutError as error:
        raise Unreachable(f"{what}: no answer within {seconds:g} s") from error
    except (ServiceBusError, AzureError, OSError) as error:
        raise Unreachable(f"{what}: {type(error).__name__}: {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        # The SDK's own state breaks under a dropped connection ("'NoneType' object has no attribute …").
        raise Unreachable(f"{what}: the SDK failed with {type(error).__name__}: {error}") from error


async def _close(closeable: ServiceBusClient | ServiceBusReceiver | ServiceBusSender) -> None:
    """Closing is a courtesy to the broker: bounded, and its failure changes nothing."""
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await closeable.close()
    except Exception as error:  # noqa: BLE001 - whatever the SDK throws while closing a broken connection
        _log.debug("closing failed: %s: %s", type(error).__name__, error)


def _is_missing(error: ServiceBusError) -> bool:
    """Whether the service took no token for the queue because there is none: it answers `$cbs` with status 404."""
    return getattr(error.inner_exception, "status_code", None) == 404
