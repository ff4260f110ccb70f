"""Reads the requests in an attach of a client, and answers it.

Sources: AMQP 1.0 part 2 section 2.7.3 (attach); Microsoft Learn, "AMQP 1.0 in Azure Service Bus and Event Hubs protocol
guide" (the filters and properties of the service).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from servicebus_emulator.amqp import Coordinator, Described, Link, Long, Source, Symbol, Target, ULong
from servicebus_emulator.servicebus.entities.message import MAX_ID_CHARACTERS
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.entities.sessions import MessageSession
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, NOT_ALLOWED, NOT_IMPLEMENTED, ServiceBusError
from servicebus_emulator.servicebus.links.addresses import Address, Node, parse_address
from servicebus_emulator.servicebus.links.sender_link import batch_limit

_SESSION_FILTER = "com.microsoft:session-filter"
_TIMEOUT = "com.microsoft:timeout"
_TRANSFER_DESTINATION = "com.microsoft:transfer-destination-address"
_LOCKED_UNTIL = Symbol("com.microsoft:locked-until-utc")
_MAX_BATCH_SIZE = Symbol("com.microsoft:max-message-batch-size")
_TICKS_AT_EPOCH = 621_355_968_000_000_000
_TICKS_PER_SECOND = 10_000_000
"""The service writes the end of a session's lock in .NET ticks: 100 ns each, since the year 1."""
_DEFAULT_WAIT_SECONDS = 60.0
_REQUEST_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """A client asks for a session. `session_id` None means the next free session with messages."""

    session_id: str | None


# --- read --------------------------------------------------------------------------------------------------------


def address_of(link: Link) -> Address:
    """Return the node of the link: the target of a sender's attach, the source of a receiver's."""
    terminus = link.attach.target if link.peer_is_sender else link.attach.source
    return parse_address((terminus.address if terminus is not None else None) or "")


def require_supported(link: Link) -> None:
    """Raise `ServiceBusError` for features of the service that the emulator does not have."""
    if isinstance(link.attach.target, Coordinator):
        raise ServiceBusError(NOT_IMPLEMENTED, "Transactions are not supported.")
    if _property(link, _TRANSFER_DESTINATION) is not None:
        raise ServiceBusError(NOT_IMPLEMENTED, "Sending via another entity needs transactions, which are unsupported.")
    if address_of(link).node is Node.SUBSCRIPTION:
        raise ServiceBusError(NOT_IMPLEMENTED, "Topics, subscriptions and rules are not supported; use queues.")


def session_filter(link: Link) -> SessionFilter | None:
    """Return the session that the client asks for, None if it asks for none. Raises `ServiceBusError`.

    The filter is recognized by its name alone. Some SDKs send a described value, each with another descriptor.
    """
    source = link.attach.source
    for name, value in (source.filter or {} if source is not None else {}).items():
        if str(name) == _SESSION_FILTER:
            return SessionFilter(_session_id(value.value if isinstance(value, Described) else value))
    return None


def require_matching(settings: QueueSettings, session: SessionFilter | None) -> None:
    """Raise `ServiceBusError` unless the client asks for a session exactly if the queue requires sessions."""
    if settings.requires_session and session is None:
        text = f"'{settings.name}' requires sessions; receive with a session receiver."
        raise ServiceBusError(NOT_ALLOWED, text)
    if session is not None and not settings.requires_session:
        raise ServiceBusError(NOT_ALLOWED, f"'{settings.name}' has no sessions; receive without a session ID.")


def session_wait_seconds(link: Link) -> float:
    """Return the time that the client waits for the next free session."""
    value = _property(link, _TIMEOUT)
    return float(value) / 1000 if isinstance(value, int) else _DEFAULT_WAIT_SECONDS


def _session_id(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ServiceBusError(ARGUMENT_ERROR, "The session ID must be a string.")
    if value is not None and len(value) > MAX_ID_CHARACTERS:
        raise ServiceBusError(ARGUMENT_ERROR, f"The session ID is longer than {MAX_ID_CHARACTERS} characters.")
    return value


def _property(link: Link, wanted: str) -> object:
    # Some clients send the keys as strings instead of symbols, so they are compared as text.
    return next((value for name, value in (link.attach.properties or {}).items() if str(name) == wanted), None)


# --- answer ------------------------------------------------------------------------------------------------------


def accept_request_link(link: Link, settings: QueueSettings | None) -> None:
    """Accept a link to or from `$cbs` or a `$management` node; `settings` are those of the node's queue.

    A request may carry messages to schedule, so it may be larger than one message of the queue.
    """
    link.accept(max_message_size=_REQUEST_BYTES + (settings.max_message_bytes if settings is not None else 0))


def accept_sender_link(link: Link, settings: QueueSettings) -> None:
    """Accept a link on which the client sends messages."""
    limits: dict[str, object] = {_MAX_BATCH_SIZE: ULong(batch_limit(settings))}
    link.accept(max_message_size=settings.max_message_bytes, properties=limits)


def accept_receiver_link(link: Link, settings: QueueSettings, session: MessageSession | None) -> None:
    """Accept a link on which the client receives messages. The answer names its session and the end of the lock.

    The answer repeats the client's source: the Python SDK reads the session ID only if the address is the same.
    """
    source = link.attach.source or Source()
    properties: dict[str, object] = {}
    if session is not None:
        source = replace(source, filter={Symbol(_SESSION_FILTER): session.id})
        properties = {_LOCKED_UNTIL: Long(_TICKS_AT_EPOCH + int(session.locked_until * _TICKS_PER_SECOND))}
    link.accept(
        source=source,
        target=link.attach.target or Target(),
        max_message_size=settings.max_message_bytes,
        properties=properties,
    )
