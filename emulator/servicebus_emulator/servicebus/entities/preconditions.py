"""The conditions that a queue's settings impose on sending and receiving.

Each function raises `ServiceBusError` if the condition does not hold.
"""

from __future__ import annotations

from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import (
    ENTITY_DISABLED,
    MESSAGE_SIZE_EXCEEDED,
    NOT_ALLOWED,
    RESOURCE_LIMIT_EXCEEDED,
    ServiceBusError,
)

_MEGABYTE = 1024 * 1024


def require_sendable(settings: QueueSettings) -> None:
    """The queue is enabled for sending."""
    if not settings.status.can_send:
        raise ServiceBusError(ENTITY_DISABLED, f"'{settings.name}' is disabled for sending.")


def require_receivable(settings: QueueSettings) -> None:
    """The queue is enabled for receiving, and does not forward its messages."""
    if not settings.status.can_receive:
        raise ServiceBusError(ENTITY_DISABLED, f"'{settings.name}' is disabled for receiving.")
    if settings.forward_to is not None:
        raise ServiceBusError(NOT_ALLOWED, f"'{settings.name}' forwards to '{settings.forward_to}'; receive there.")


def require_room(settings: QueueSettings, used_bytes: int, new_bytes: int) -> None:
    """The queue is enabled for sending and has room for `new_bytes` more."""
    require_sendable(settings)
    if used_bytes + new_bytes > settings.max_size_mb * _MEGABYTE:
        text = f"'{settings.name}' is full: it holds at most {settings.max_size_mb} MB"
        raise ServiceBusError(RESOURCE_LIMIT_EXCEEDED, text)


def require_fit(settings: QueueSettings, message: BrokeredMessage) -> None:
    """The message is small enough, and has a session ID if the queue requires sessions."""
    if message.size > settings.max_message_bytes:
        text = f"the message has {message.size} bytes; '{settings.name}' takes {settings.max_message_bytes}"
        raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, text)
    if settings.requires_session and message.session_id is None:
        text = f"'{settings.name}' requires sessions: set the message's session ID"
        raise ServiceBusError(NOT_ALLOWED, text)
