"""What a queue's rules refuse. Plain questions to its settings, each raising `ServiceBusError` with what to do."""

from __future__ import annotations

from servicebus_emulator.servicebus.entities.message import Message
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.errors import (
    ENTITY_DISABLED,
    MESSAGE_SIZE_EXCEEDED,
    NOT_ALLOWED,
    RESOURCE_LIMIT_EXCEEDED,
    ServiceBusError,
)

_MEGABYTE = 1024 * 1024


def require_sendable(rules: QueueSettings) -> None:
    """Something may be sent to it."""
    if not rules.status.can_send:
        raise ServiceBusError(ENTITY_DISABLED, f"'{rules.name}' is disabled for sending.")


def require_receivable(rules: QueueSettings) -> None:
    """Something may be received from it."""
    if not rules.status.can_receive:
        raise ServiceBusError(ENTITY_DISABLED, f"'{rules.name}' is disabled for receiving.")
    if rules.forward_to is not None:
        raise ServiceBusError(NOT_ALLOWED, f"'{rules.name}' forwards to '{rules.forward_to}'; receive there.")


def require_room(rules: QueueSettings, used: int, size: int) -> None:
    """Something of this size in bytes may be sent to it, of which so many bytes are used."""
    require_sendable(rules)
    if used + size > rules.max_size_mb * _MEGABYTE:
        text = f"'{rules.name}' is full: it holds at most {rules.max_size_mb} MB"
        raise ServiceBusError(RESOURCE_LIMIT_EXCEEDED, text)


def require_fit(rules: QueueSettings, message: Message) -> None:
    """The message is one that it takes."""
    if message.size > rules.max_message_bytes:
        text = f"the message has {message.size} bytes; '{rules.name}' takes {rules.max_message_bytes}"
        raise ServiceBusError(MESSAGE_SIZE_EXCEEDED, text)
    if rules.requires_session and message.session_id is None:
        text = f"'{rules.name}' requires sessions: set the message's session ID"
        raise ServiceBusError(NOT_ALLOWED, text)
