"""The only module of the worker that touches azure.servicebus: deadlines, error translation, settlement.

Rules learned the hard way, kept here so that no one else needs to know them:

- One receiver per lane, used by one task at a time: settling on a receiver that another task polls costs 0.2 s.
- `prefetch_count=0`, and a receive is never cancelled while it works: it waits briefly and returns.
- A sender is opened before use and used by one task at a time: concurrent cold sends fail.
- Every SDK call has its own deadline: a frozen peer looks like an empty queue, and sends hang for minutes. After a
  missed deadline the link's state is unknown, so the receiver or sender is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import certifi
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError
from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential
from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthorizationError,
)

from contracts.message import Message, ReceivedMessage
from contracts.servicebus import from_sdk, to_sdk
from worker.logs import log
from worker.settings import ServiceBusSettings

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_DEAD_LETTER_TEXT = 4096
"""Service Bus takes reason and description up to this many characters each."""

_PEEKED_AT_ONCE = 100
_TAKEN_AT_ONCE = 100


class BusTrouble(Exception):
    """The connection cannot be used (any more): throw it away and make a new one."""


class LockLost(Exception):
    """The message's lock is gone: the broker will deliver it again, to whomever asks."""


class TooLarge(Exception):
    """The queue does not take a message of this size."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request on loan: `message` is what it says, the rest is for settling it."""

    message: ReceivedMessage
    raw: ServiceBusReceivedMessage

    @property
    def lock_seconds_left(self) -> float:
        """How long the lock still holds, by this machine's clock; negative once it is over."""
        until = self.raw.locked_until_utc
        return (until - datetime.now(UTC)).total_seconds() if until else 0.0


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """A message in a dead-letter queue, and why it is there."""

    message: ReceivedMessage
    reason: str
    description: str


class Receiver:
    """One peek-lock receiver on its own connection, for one task at a time."""

    def __init__(self, sdk: ServiceBusReceiver, settings: ServiceBusSettings) -> None:
        self._sdk = sdk
        self._settings = settings
        self._heard_at = time.monotonic()

    async def receive(self) -> Delivery | None:
        """The next request, None if none came within `receive_wait_seconds`. Raises `BusTrouble`."""
        wait = self._settings.receive_wait_seconds
        messages = await _bounded(
            self._sdk.receive_messages(max_message_count=1, max_wait_time=wait),
            wait + self._settings.settle_seconds,
            "receive",
        )
        if not messages:
            await self._probe_when_quiet()
            return None
        self._heard_at = time.monotonic()
        return Delivery(from_sdk(messages[0]), messages[0])

    async def complete(self, delivery: Delivery) -> None:
        """Take the request off its queue. Raises `LockLost`, `BusTrouble`."""
        await self._settle(self._sdk.complete_message(delivery.raw), "complete")

    async def abandon(self, delivery: Delivery) -> None:
        """Give the request back; its delivery count rises by one. Raises `LockLost`, `BusTrouble`."""
        await self._settle(self._sdk.abandon_message(delivery.raw), "abandon")

    async def dead_letter(self, delivery: Delivery, reason: str, description: str) -> None:
        """Move the request to the dead-letter queue. Raises `LockLost`, `BusTrouble`."""
        settling = self._sdk.dead_letter_message(
            delivery.raw, reason=reason[:_DEAD_LETTER_TEXT], error_description=description[:_DEAD_LETTER_TEXT]
        )
        await self._settle(settling, "dead-letter")

    async def renew(self, delivery: Delivery) -> None:
        """Prolong the request's lock. Raises `LockLost`, `BusTrouble`."""
        await _bounded(self._sdk.renew_message_lock(delivery.raw), self._settings.renew_seconds, "renew-lock")

    async def _settle(self, settling: Awaitable[None], what: str) -> None:
        await _bounded(settling, self._settings.settle_seconds, what)
        self._heard_at = time.monotonic()

    async def _probe_when_quiet(self) -> None:
        """An empty receive proves nothing, so a silent broker is asked something it must answer."""
        if time.monotonic() - self._heard_at < self._settings.probe_interval_seconds:
            return
        await _bounded(self._sdk.peek_messages(max_message_count=1), self._settings.settle_seconds, "probe")
        self._heard_at = time.monotonic()


class DeadLetterQueue:
    """The messages that a queue's dead-letter queue holds."""

    def __init__(self, sdk: ServiceBusReceiver, settings: ServiceBusSettings) -> None:
        self._sdk = sdk
        self._settings = settings
        self._held: dict[int, ServiceBusReceivedMessage] = {}

    async def peek(self, *, from_sequence: int = 0) -> AsyncIterator[DeadLettered]:
        """Each message from that sequence number on, in order; all of them stay. Raises `BusTrouble`."""
        while True:
            page = await _bounded(
                self._sdk.peek_messages(_PEEKED_AT_ONCE, sequence_number=from_sequence),
                self._settings.settle_seconds,
                "peek",
            )
            if not page:
                return
            for raw in page:
                message = from_sdk(raw)
                from_sequence = message.sequence_number + 1
                yield DeadLettered(message, raw.dead_letter_reason or "", raw.dead_letter_error_description or "")

    async def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        """Each of these messages that is there, locked until it is completed. Raises `BusTrouble`.

        The service hands dead letters out in its own order only. Those that are not wanted are held meanwhile, so that
        they do not come again, and given back when the queue is closed; no delivery count is too high for them.
        """
        missing = set(sequence_numbers)
        while missing and (batch := await self._batch()):
            if all(raw.sequence_number in self._held for raw in batch):
                return  # locks run out and it begins again from the front: all that can be had was here
            self._held |= {raw.sequence_number or 0: raw for raw in batch}
            for raw in batch:
                if raw.sequence_number in missing:
                    missing.discard(raw.sequence_number)
                    yield Delivery(from_sdk(raw), raw)

    async def complete(self, delivery: Delivery) -> None:
        """Delete a message that was taken. Raises `LockLost`, `BusTrouble`."""
        await _bounded(self._sdk.complete_message(delivery.raw), self._settings.settle_seconds, "complete")
        self._held.pop(delivery.message.sequence_number, None)

    async def give_back(self) -> None:
        """Let go of what was taken and not completed. If that fails, it comes back when its lock ends."""
        held, self._held = self._held, {}
        with contextlib.suppress(BusTrouble):
            for raw in held.values():
                with contextlib.suppress(LockLost):
                    await _bounded(self._sdk.abandon_message(raw), self._settings.settle_seconds, "abandon")

    async def _batch(self) -> list[ServiceBusReceivedMessage]:
        wait = self._settings.receive_wait_seconds
        receiving = self._sdk.receive_messages(max_message_count=_TAKEN_AT_ONCE, max_wait_time=wait)
        return await _bounded(receiving, wait + self._settings.settle_seconds, "receive")


class SenderPool:
    """Up to `senders_per_queue` opened senders to one queue, each lent to one task at a time."""

    def __init__(self, client: ServiceBusClient, queue: str, settings: ServiceBusSettings) -> None:
        self._client = client
        self._queue = queue
        self._settings = settings
        self._idle: list[ServiceBusSender] = []
        self._slots = asyncio.Semaphore(settings.senders_per_queue)

    async def send(self, message: Message) -> None:
        """Returns once the broker has accepted the message. Raises `TooLarge`, `BusTrouble`."""
        async with self._slots:
            sender = self._idle.pop() if self._idle else await self._opened()
            try:
                await _bounded(sender.send_messages(to_sdk(message)), self._settings.send_seconds, "send")
            except TooLarge:
                self._idle.append(sender)
                raise
            except BaseException:
                await _close_quietly(sender)
                raise
            self._idle.append(sender)

    async def close(self) -> None:
        """Close the idle senders; those lent out are closed with the client."""
        senders, self._idle = self._idle, []
        await asyncio.gather(*(_close_quietly(sender) for sender in senders))

    async def _opened(self) -> ServiceBusSender:
        sender = self._client.get_queue_sender(self._queue)
        try:
            await _bounded(sender.__aenter__(), self._settings.open_seconds, f"open a sender to '{self._queue}'")
        except BaseException:
            await _close_quietly(sender)
            raise
        return sender


class ServiceBus:
    """The way to Service Bus: one client and one credential for the process."""

    def __init__(self, settings: ServiceBusSettings, *, client_id: str | None = None) -> None:
        self._settings = settings
        self._credential = credential_for(settings, client_id)
        self._client = _client(settings, self._credential)
        self._pools: dict[str, SenderPool] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await _close_quietly(self._client)
        if self._credential is not None:
            await self._credential.close()

    @contextlib.asynccontextmanager
    async def receiver(self, queue: str) -> AsyncIterator[Receiver]:
        """A receiver on a connection of its own, opened. Raises `BusTrouble`."""
        sdk = self._client.get_queue_receiver(queue, prefetch_count=0)
        try:
            await _bounded(sdk.__aenter__(), self._settings.open_seconds, f"open a receiver on '{queue}'")
            yield Receiver(sdk, self._settings)
        finally:
            await _close_quietly(sdk)

    async def send(self, queue: str, message: Message) -> None:
        """See `SenderPool.send`."""
        pool = self._pools.get(queue)
        if pool is None:
            pool = self._pools[queue] = SenderPool(self._client, queue, self._settings)
        await pool.send(message)

    async def other_senders(self, queue: str) -> list[str] | None:
        """Names of the queue's own shared access policies, other than ours, that may send; None: we may not look."""
        secret = self._settings.connection_string
        text = secret.get_secret_value() if secret else ""
        if "usedevelopmentemulator=true" in text.lower():
            return None  # it has no administration over https
        try:
            async with asyncio.timeout(self._settings.open_seconds), self._administration(text) as administration:
                rules = (await administration.get_queue(queue)).authorization_rules or []
        except (AzureError, TimeoutError) as error:
            log(_log, logging.DEBUG, "servicebus.policies_unread", f"Policies not read: {type(error).__name__}")
            return None
        own = re.search(r"SharedAccessKeyName=([^;]+)", text, re.IGNORECASE)
        return [
            str(rule.key_name)
            for rule in rules
            if {str(getattr(right, "value", right)) for right in rule.rights or []} & {"Send", "Manage"}
            and not (own and rule.key_name == own[1])
        ]

    def _administration(self, connection_string: str) -> ServiceBusAdministrationClient:
        if connection_string:
            return ServiceBusAdministrationClient.from_connection_string(connection_string, retry_total=1)
        if self._settings.namespace is None or self._credential is None:
            raise ValueError("neither a connection string nor a namespace")  # ServiceBusSettings holds one of them
        return ServiceBusAdministrationClient(self._settings.namespace, self._credential, retry_total=1)

    @contextlib.asynccontextmanager
    async def dead_letter_queue(self, queue: str) -> AsyncIterator[DeadLetterQueue]:
        """The dead-letter queue of a queue, opened. Raises `BusTrouble`."""
        sdk = self._client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER, prefetch_count=0)
        try:
            await _bounded(sdk.__aenter__(), self._settings.open_seconds, f"open the dead-letter queue of '{queue}'")
            dead = DeadLetterQueue(sdk, self._settings)
            try:
                yield dead
            finally:
                await dead.give_back()
        finally:
            await _close_quietly(sdk)


async def _bounded(call: Awaitable[_T], seconds: float, what: str) -> _T:
    """Await an SDK call under a deadline of our own and in our own errors."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except MessageSizeExceededError as error:
        raise TooLarge(str(error)) from error
    except (MessageLockLostError, MessageAlreadySettled) as error:
        raise LockLost(str(error)) from error
    except TimeoutError as error:
        raise BusTrouble(f"{what}: no answer within {seconds:g} s") from error
    except MessagingEntityNotFoundError as error:
        raise BusTrouble(f"{what}: there is no such queue; create it, or correct its name in the settings") from error
    except ServiceBusAuthorizationError as error:
        raise BusTrouble(f"{what}: not authorised; give the identity Azure Service Bus Data Receiver/Sender") from error
    except Exception as error:
        # Its own errors, and whatever its state breaks into under a dropped connection ("'NoneType' object has no
        # attribute …"): the remedy is the same, a new connection.
        raise BusTrouble(f"{what}: {type(error).__name__}: {error}") from error


async def _close_quietly(closeable: ServiceBusClient | ServiceBusReceiver | ServiceBusSender) -> None:
    """Closing is a courtesy to the broker: bounded, and its failure changes nothing."""
    try:
        async with asyncio.timeout(5):
            await closeable.close()
    except Exception as error:  # noqa: BLE001 - whatever the SDK throws while closing a broken connection
        log(_log, logging.DEBUG, "servicebus.close_failed", f"Closing failed: {type(error).__name__}: {error}")


def _client(settings: ServiceBusSettings, credential: AsyncTokenCredential | None) -> ServiceBusClient:
    """The SDK retries little: the lane and the reply publisher retry on new connections, and say so.

    One TLS context serves all connections: the SDK would load the trusted certificates anew for each, some 20 ms of
    processor time while every lane waits.
    """
    options: dict[str, Any] = {  # the SDK's are keywords of many kinds
        "retry_total": 1,
        "retry_backoff_factor": 0.2,
        "ssl_context": ssl.create_default_context(cafile=certifi.where()),
    }
    if settings.connection_string:
        return ServiceBusClient.from_connection_string(settings.connection_string.get_secret_value(), **options)
    if settings.namespace is None or credential is None:
        raise ValueError("neither a connection string nor a namespace")  # ServiceBusSettings holds one of them
    return ServiceBusClient(settings.namespace, credential, **options)


def credential_for(
    settings: ServiceBusSettings, client_id: str | None = None
) -> ManagedIdentityCredential | DefaultAzureCredential | None:
    """The credential to reach Service Bus with; None if the connection string is one."""
    if settings.connection_string:
        return None
    if settings.credential == "default":
        return DefaultAzureCredential(managed_identity_client_id=client_id)
    return ManagedIdentityCredential(client_id=client_id)
