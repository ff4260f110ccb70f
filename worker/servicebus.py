"""The queues, through azure.servicebus: deadlines, error translation, settlement.

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
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

from azure.servicebus import ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
)

from contracts.message import Message, ReceivedMessage
from contracts.servicebus import from_sdk, to_sdk
from worker import policies, salvage
from worker.connection import client_for, credential_for
from worker.logs import log
from worker.settings import ServiceBusSettings

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_DEAD_LETTER_TEXT = 4096
"""Service Bus takes reason and description up to this many characters each."""

_PEEKED_AT_ONCE = 100
_TAKEN_AT_ONCE = 100
_STALE_SECONDS = 240.0
"""A sender that was idle for longer is made anew: the service detaches idle links after 10 minutes, and networks forget
connections sooner. To find that out by sending takes a second or more.
"""


class BusTrouble(Exception):
    """The connection cannot be used (any more): throw it away and make a new one."""


class Undecodable(BusTrouble):
    """The broker answered with a message that the SDK cannot decode."""


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
    whole: bool = True
    """Whether it could be decoded; if not, `message` has no body."""


class Receiver:
    """One peek-lock receiver on its own connection, for one task at a time."""

    def __init__(self, sdk: ServiceBusReceiver, settings: ServiceBusSettings) -> None:
        self._sdk = sdk
        self._settings = settings
        self._heard_at = time.monotonic()

    async def receive(self) -> Delivery | None:
        """The next request, None if none came within `receive_wait_seconds`. Raises `BusTrouble`."""
        messages = await _received(self._sdk, 1, self._settings)
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
        with contextlib.suppress(Undecodable):  # an answer all the same
            await _bounded(self._sdk.peek_messages(max_message_count=1), self._settings.settle_seconds, "probe")
        self._heard_at = time.monotonic()


class DeadLetterQueue:
    """The messages that a queue's dead-letter queue holds."""

    def __init__(self, queue: str, sdk: ServiceBusReceiver, settings: ServiceBusSettings) -> None:
        self._queue = queue
        self._sdk = sdk
        self._settings = settings
        self._held: dict[int, ServiceBusReceivedMessage] = {}
        self._salvaging = False
        self.undecodable: set[int] = set()
        """Sequence numbers of messages that `take` cannot hand out; known once it was called."""

    async def peek(self, *, from_sequence: int = 0) -> AsyncIterator[DeadLettered]:
        """Each message from that sequence number on, in order; all of them stay. Raises `BusTrouble`."""
        while page := await self._page(from_sequence):
            for raw, whole in page:
                message = from_sdk(raw)
                from_sequence = message.sequence_number + 1
                if not whole:
                    self._say_undecodable(message)
                reason, description = raw.dead_letter_reason or "", raw.dead_letter_error_description or ""
                yield DeadLettered(message, reason, description, whole)

    async def _page(self, from_sequence: int) -> list[tuple[ServiceBusReceivedMessage, bool]]:
        """The next messages, and whether they are whole."""
        if not self._salvaging:
            peeking = self._sdk.peek_messages(_PEEKED_AT_ONCE, sequence_number=from_sequence)
            try:
                return [(raw, True) for raw in await _bounded(peeking, self._settings.settle_seconds, "peek")]
            except Undecodable:
                self._salvaging = True
        salvaging = salvage.peek(self._sdk, _PEEKED_AT_ONCE, from_sequence)
        page = await _bounded(salvaging, self._settings.open_seconds + self._settings.settle_seconds, "peek")
        return [(one.message, one.whole) for one in page]

    def _say_undecodable(self, message: ReceivedMessage) -> None:
        log(
            _log,
            logging.WARNING,
            "deadletter.undecodable",
            "A dead letter cannot be decoded, and is read without its body.",
            queue=self._queue,
            message_id=message.message_id,
            sequence_number=message.sequence_number,
        )

    async def take(self, sequence_numbers: Iterable[int]) -> AsyncIterator[Delivery]:
        """Each of these messages that is there, locked until it is completed. Raises `BusTrouble`.

        The service hands dead letters out in its own order only. Those that are not wanted are held meanwhile, so that
        they do not come again, and given back when the queue is closed; no delivery count is too high for them.

        A receive fails as a whole if one of its messages cannot be decoded, and leaves all of them locked. Where there
        is such a message, they are received one by one: only the one that fails is left locked, and out of the way.
        """
        missing = set(sequence_numbers)
        self.undecodable = {one.message.sequence_number async for one in self.peek() if not one.whole}
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
        """The next messages. None come in the end, or those again whose locks ran out meanwhile."""
        for number in self.undecodable:
            try:
                return await _received(self._sdk, 1, self._settings)
            except Undecodable:
                await self._open_anew(number)
        return await _received(self._sdk, 1 if self.undecodable else _TAKEN_AT_ONCE, self._settings)

    async def _open_anew(self, undecodable: int) -> None:
        """Have the SDK give up its link, which receives nothing any more, by an error that it sees; then open it."""
        peeking = self._sdk.peek_messages(1, sequence_number=undecodable)
        with contextlib.suppress(Undecodable):
            await _bounded(peeking, self._settings.settle_seconds, "peek")
        await _bounded(salvage.peek(self._sdk, 1, undecodable), self._settings.open_seconds, "open the link anew")


class SenderPool:
    """Up to `senders_per_queue` opened senders to one queue, each lent to one task at a time."""

    def __init__(self, client: ServiceBusClient, queue: str, settings: ServiceBusSettings) -> None:
        self._client = client
        self._queue = queue
        self._settings = settings
        self._idle: list[tuple[float, ServiceBusSender]] = []
        """With the moment of its last use; the last one is the latest."""
        self._slots = asyncio.Semaphore(settings.senders_per_queue)

    async def send(self, message: Message) -> None:
        """Returns once the broker has accepted the message. Raises `TooLarge`, `BusTrouble`."""
        async with self._slots:
            sender = await self._borrowed()
            try:
                await _bounded(sender.send_messages(to_sdk(message)), self._settings.send_seconds, "send")
            except TooLarge:
                self._idle.append((time.monotonic(), sender))
                raise
            except BaseException:
                await _close_quietly(sender)
                raise
            self._idle.append((time.monotonic(), sender))

    async def close(self) -> None:
        """Close the idle senders; those lent out are closed with the client."""
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_close_quietly(sender) for _, sender in idle))

    async def _borrowed(self) -> ServiceBusSender:
        if self._idle and time.monotonic() - self._idle[-1][0] > _STALE_SECONDS:
            await self.close()
        return self._idle.pop()[1] if self._idle else await self._opened()

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
        self._client = client_for(settings, self._credential)
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
        """See `policies.other_senders`."""
        return await policies.other_senders(self._settings, self._credential, queue)

    @contextlib.asynccontextmanager
    async def dead_letter_queue(self, queue: str) -> AsyncIterator[DeadLetterQueue]:
        """The dead-letter queue of a queue, opened. Raises `BusTrouble`."""
        sdk = self._client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER, prefetch_count=0)
        try:
            await _bounded(sdk.__aenter__(), self._settings.open_seconds, f"open the dead-letter queue of '{queue}'")
            dead = DeadLetterQueue(queue, sdk, self._settings)
            try:
                yield dead
            finally:
                await dead.give_back()
        finally:
            await _close_quietly(sdk)


async def _received(
    sdk: ServiceBusReceiver, most: int, settings: ServiceBusSettings
) -> list[ServiceBusReceivedMessage]:
    """Up to so many messages; none if none came in `receive_wait_seconds`. Raises `BusTrouble`.

    Where its decoder raises `ValueError`, the SDK takes that for the end of the wait, and from then on answers every
    receive at once with nothing. That link is dead: who asked it again and again would do nothing else.
    """
    began = time.monotonic()
    wait = settings.receive_wait_seconds
    receiving = sdk.receive_messages(max_message_count=most, max_wait_time=wait)
    messages = await _bounded(receiving, wait + settings.settle_seconds, "receive")
    if not messages and time.monotonic() - began < wait / 2:
        raise Undecodable("receive: the SDK stopped receiving, as it does at a message that it cannot decode")
    return messages


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
    except ServiceBusAuthenticationError as error:
        if not _is_missing(error):
            raise BusTrouble(f"{what}: {type(error).__name__}: {error}") from error
        raise BusTrouble(f"{what}: there is no such queue; create it, or correct its name in the settings") from error
    except ServiceBusAuthorizationError as error:
        raise BusTrouble(f"{what}: not authorised; give the identity Azure Service Bus Data Receiver/Sender") from error
    except Exception as error:
        if _is_decoding(error):
            raise Undecodable(f"{what}: a message cannot be decoded: {error}") from error
        # Its own errors, and whatever its state breaks into under a dropped connection ("'NoneType' object has no
        # attribute …"): the remedy is the same, a new connection.
        raise BusTrouble(f"{what}: {type(error).__name__}: {error}") from error


def _is_decoding(error: Exception) -> bool:
    """Whether the SDK's decoder stumbled: it raises built-in errors, which the SDK wraps in its most general one.

    A dropped connection can look like that too; whoever tells them apart finds out by asking again.
    """
    cause = error.inner_exception if type(error) is ServiceBusError else None
    return isinstance(
        cause, ValueError | TypeError | LookupError | ArithmeticError | RecursionError | struct.error
    ) and (not isinstance(cause, OSError))


async def _close_quietly(closeable: ServiceBusClient | ServiceBusReceiver | ServiceBusSender) -> None:
    """Closing is a courtesy to the broker: bounded, and its failure changes nothing."""
    try:
        async with asyncio.timeout(5):
            await closeable.close()
    except Exception as error:  # noqa: BLE001 - whatever the SDK throws while closing a broken connection
        log(_log, logging.DEBUG, "servicebus.close_failed", f"Closing failed: {type(error).__name__}: {error}")


def _is_missing(error: ServiceBusError) -> bool:
    """Whether the service took no token for the queue because there is none: it answers `$cbs` with status 404."""
    return getattr(error.inner_exception, "status_code", None) == 404
