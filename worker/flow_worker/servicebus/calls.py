"""One call of the SDK: under a deadline, and its many errors as our few."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Awaitable
from typing import TypeVar

from azure.servicebus import ServiceBusReceivedMessage
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

from flow_worker.servicebus.errors import LockLost, ServiceBusUnavailable, TooLarge, Undecodable
from flow_worker.settings import ServiceBusSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


async def bounded(call: Awaitable[_T], seconds: float, what: str) -> _T:
    """Await an SDK call under a deadline of our own and in our own errors."""
    try:
        async with asyncio.timeout(seconds):
            return await call
    except MessageSizeExceededError as error:
        raise TooLarge(str(error)) from error
    except (MessageLockLostError, MessageAlreadySettled) as error:
        raise LockLost(str(error)) from error
    except TimeoutError as error:
        raise ServiceBusUnavailable(f"{what}: no answer within {seconds:g} s") from error
    except MessagingEntityNotFoundError as error:
        raise ServiceBusUnavailable(
            f"{what}: there is no such queue; create it, or correct its name in the settings"
        ) from error
    except ServiceBusAuthenticationError as error:
        if not _is_missing(error):
            raise ServiceBusUnavailable(f"{what}: {type(error).__name__}: {error}") from error
        raise ServiceBusUnavailable(
            f"{what}: there is no such queue; create it, or correct its name in the settings"
        ) from error
    except ServiceBusAuthorizationError as error:
        raise ServiceBusUnavailable(
            f"{what}: not authorised; give the identity Azure Service Bus Data Receiver/Sender"
        ) from error
    except Exception as error:
        if _is_decoding(error):
            raise Undecodable(f"{what}: a message cannot be decoded: {error}") from error
        # Its own errors, and whatever its state breaks into under a dropped connection ("'NoneType' object has no
        # attribute …"): the remedy is the same, a new connection.
        raise ServiceBusUnavailable(f"{what}: {type(error).__name__}: {error}") from error


async def received(sdk: ServiceBusReceiver, most: int, settings: ServiceBusSettings) -> list[ServiceBusReceivedMessage]:
    """Up to so many messages; none if none came in `receive_wait_seconds`. Raises `ServiceBusUnavailable`.

    Where its decoder raises `ValueError`, the SDK takes that for the end of the wait, and from then on answers every
    receive at once with nothing. That link is dead: who asked it again and again would do nothing else.
    """
    began = time.monotonic()
    wait = settings.receive_wait_seconds
    receiving = sdk.receive_messages(max_message_count=most, max_wait_time=wait)
    messages = await bounded(receiving, wait + settings.settle_seconds, "receive")
    if not messages and time.monotonic() - began < wait / 2:
        raise Undecodable("receive: the SDK stopped receiving, as it does at a message that it cannot decode")
    return messages


async def close_quietly(closeable: ServiceBusClient | ServiceBusReceiver | ServiceBusSender) -> None:
    """Closing is a courtesy to the broker: bounded, and its failure changes nothing."""
    try:
        async with asyncio.timeout(5):
            await closeable.close()
    except Exception as error:  # noqa: BLE001 - whatever the SDK throws while closing a broken connection
        log(_log, logging.DEBUG, "servicebus.close_failed", f"Closing failed: {type(error).__name__}: {error}")


def _is_decoding(error: Exception) -> bool:
    """Whether the SDK's decoder stumbled: it raises built-in errors, which the SDK wraps in its most general one.

    A dropped connection can look like that too; whoever tells them apart finds out by asking again.
    """
    cause = error.inner_exception if type(error) is ServiceBusError else None
    return isinstance(
        cause, ValueError | TypeError | LookupError | ArithmeticError | RecursionError | struct.error
    ) and (not isinstance(cause, OSError))


def _is_missing(error: ServiceBusError) -> bool:
    """Whether the service took no token for the queue because there is none: it answers `$cbs` with status 404."""
    return getattr(error.inner_exception, "status_code", None) == 404
