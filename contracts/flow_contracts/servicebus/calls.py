"""Bounds each call of the SDK by a deadline, and translates the SDK's errors into the adapter's."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable
from typing import TypeVar

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
    SessionCannotBeLockedError,
)

from flow_contracts.servicebus.deadlines import Deadlines
from flow_contracts.servicebus.errors import (
    LockLost,
    MessageTooLarge,
    ServiceBusMisconfigured,
    ServiceBusUnavailable,
    SessionInUse,
)
from flow_contracts.servicebus.events import log_event
from flow_contracts.servicebus.time_limit import TimeLimit

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_CLOSE_SECONDS = 5.0
_NO_QUEUE = "there is no such queue; create it, or correct its name in the settings"


async def bounded(call: Awaitable[_T], seconds: float, operation: str) -> _T:
    """Await an SDK call; `operation` names it in error messages.

    Raises the errors of `flow_contracts.servicebus.errors` and no other; `ServiceBusUnavailable` after `seconds`.
    """
    try:
        async with TimeLimit(seconds):
            return await call
    except TimeoutError as error:
        raise ServiceBusUnavailable(f"{operation}: no answer within {seconds:g} s") from error
    except Exception as error:
        raise _translated(error, operation) from error


def _translated(error: Exception, operation: str) -> Exception:
    """Return the adapter's error for an error of the SDK."""
    match error:
        case MessageSizeExceededError():
            return MessageTooLarge(f"{operation}: the message is larger than the queue accepts; send less: {error}")
        case MessageLockLostError() | MessageAlreadySettled():
            return LockLost(f"{operation}: {error}")
        case SessionCannotBeLockedError():
            return SessionInUse(f"{operation}: another reader holds it; a session has one reader at a time")
        case MessagingEntityNotFoundError():
            return ServiceBusMisconfigured(f"{operation}: {_NO_QUEUE}")
        case MessagingEntityDisabledError():
            return ServiceBusMisconfigured(f"{operation}: the queue is disabled; enable it")
        case ServiceBusAuthenticationError() | ServiceBusAuthorizationError():
            return ServiceBusMisconfigured(f"{operation}: {_refusal(error)}")
        case _:
            # The SDK's own errors, and the built-in ones that its broken state causes after a dropped connection
            # ("'NoneType' object has no attribute …"). All have the same remedy: a new connection.
            return ServiceBusUnavailable(f"{operation}: {type(error).__name__}: {error}")


def _refusal(error: ServiceBusAuthenticationError | ServiceBusAuthorizationError) -> str:
    if _is_missing(error):
        return _NO_QUEUE
    if isinstance(error, ServiceBusAuthorizationError):
        return "not authorised; give the identity Azure Service Bus Data Receiver/Sender on the queue"
    return (
        "Service Bus refused the credential; check it, its Service Bus role on the queue, and this machine's clock "
        f"(a key's signature of a clock that is an hour behind has expired): {error}"
    )


async def receive_batch(
    sdk: ServiceBusReceiver, max_messages: int, wait_seconds: float, deadlines: Deadlines
) -> list[ServiceBusReceivedMessage]:
    """Receive up to `max_messages`; the list is empty if no message came within `wait_seconds`.

    Raises `ServiceBusFailure`, also if the link is dead. If a `ValueError` rises in the SDK's connection, the SDK takes
    that for the end of the wait. It then answers every later receive at once with an empty list. A caller that kept
    polling such a link would spin and never receive again.
    """
    began = time.monotonic()
    receiving = sdk.receive_messages(max_message_count=max_messages, max_wait_time=wait_seconds)
    messages = await bounded(receiving, wait_seconds + deadlines.settle_seconds, "receive")
    # A live link returns an empty list only after the whole wait; half of it leaves room for an early timer.
    if not messages and time.monotonic() - began < wait_seconds / 2:
        raise ServiceBusUnavailable("receive: the SDK stopped receiving, after an answer that it did not understand")
    return messages


async def close_quietly(closeable: ServiceBusClient | ServiceBusReceiver | ServiceBusSender) -> None:
    """Close a link or the client, and only log a failure: the broker drops the link by itself later."""
    try:
        async with TimeLimit(_CLOSE_SECONDS):
            await closeable.close()
    except Exception as error:  # noqa: BLE001 - closing a broken connection makes the SDK raise any built-in error
        log_event(_log, logging.DEBUG, "servicebus.close_failed", f"Closing failed: {type(error).__name__}: {error}")


def _is_missing(error: ServiceBusError) -> bool:
    """Return whether the queue is missing: Service Bus then refuses the token for it with status 404 (node `$cbs`)."""
    return getattr(error.inner_exception, "status_code", None) == 404
