"""What a client asks for when it attaches a link, and what it is told when it gets it."""

from __future__ import annotations

from dataclasses import replace

from servicebus_emulator.amqp import Coordinator, Described, Link, Long, Source, Symbol, Target, ULong
from servicebus_emulator.servicebus.entities.message import MAX_ID_CHARACTERS
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.servicebus.entities.sessions import MessageSession
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, NOT_ALLOWED, NOT_IMPLEMENTED, ServiceBusError
from servicebus_emulator.servicebus.links import addresses
from servicebus_emulator.servicebus.links.addresses import Address, Node
from servicebus_emulator.servicebus.links.sender_link import batch_limit

_SESSION_FILTER = "com.microsoft:session-filter"
_TIMEOUT = "com.microsoft:timeout"
_TRANSFER_DESTINATION = "com.microsoft:transfer-destination-address"
_LOCKED_UNTIL = Symbol("com.microsoft:locked-until-utc")
_MAX_BATCH_SIZE = Symbol("com.microsoft:max-message-batch-size")
_TICKS_AT_EPOCH = 621_355_968_000_000_000
_DEFAULT_WAIT_SECONDS = 60.0
_REQUEST_BYTES = 1024 * 1024


def address(link: Link) -> Address:
    """Where the link points: to its target where the client sends, to its source where it receives."""
    terminus = link.attach.target if link.peer_is_sender else link.attach.source
    return addresses.parse((terminus.address if terminus is not None else None) or "")


def require_supported(link: Link) -> None:
    """Raises `ServiceBusError` for what the service can do and the emulator cannot."""
    if isinstance(link.attach.target, Coordinator):
        raise ServiceBusError(NOT_IMPLEMENTED, "Transactions are not supported.")
    if _property(link, _TRANSFER_DESTINATION) is not None:
        raise ServiceBusError(NOT_IMPLEMENTED, "Sending via another entity needs transactions, which are unsupported.")
    if address(link).node is Node.SUBSCRIPTION:
        raise ServiceBusError(NOT_IMPLEMENTED, "Topics, subscriptions and rules are not supported; use queues.")


def session_wanted(link: Link) -> tuple[bool, str | None]:
    """Whether the client asks for a session, and for which; None: the next free one. Raises `ServiceBusError`.

    Known by the filter's name alone: some SDKs describe the value, each with another number.
    """
    source = link.attach.source
    for name, value in (source.filter or {} if source is not None else {}).items():
        if str(name) == _SESSION_FILTER:
            return True, _session_id(value.value if isinstance(value, Described) else value)
    return False, None


def require_fitting(settings: QueueSettings, *, session_wanted: bool) -> None:
    """Raises `ServiceBusError` unless a session is asked for just where the queue has them."""
    if settings.requires_session and not session_wanted:
        text = f"'{settings.name}' requires sessions; receive with a session receiver."
        raise ServiceBusError(NOT_ALLOWED, text)
    if session_wanted and not settings.requires_session:
        raise ServiceBusError(NOT_ALLOWED, f"'{settings.name}' has no sessions; receive without a session ID.")


def session_wait_seconds(link: Link) -> float:
    """How long the client waits for the next free session."""
    value = _property(link, _TIMEOUT)
    return float(value) / 1000 if isinstance(value, int) else _DEFAULT_WAIT_SECONDS


def accept_request(link: Link, settings: QueueSettings | None) -> None:
    """Accept a link to or from `$cbs`, or the `$management` node of a queue: messages to be scheduled come there."""
    link.accept(max_message_size=_REQUEST_BYTES + (settings.max_message_bytes if settings is not None else 0))


def accept_sender(link: Link, settings: QueueSettings) -> None:
    """Accept a link that the client sends messages on."""
    sizes: dict[str, object] = {_MAX_BATCH_SIZE: ULong(batch_limit(settings))}
    link.accept(max_message_size=settings.max_message_bytes, properties=sizes)


def accept_receiver(link: Link, settings: QueueSettings, session: MessageSession | None) -> None:
    """Accept a link that the client receives messages on, and tell it which session it has, until when."""
    source = link.attach.source or Source()
    properties: dict[str, object] = {}
    if session is not None:
        source = replace(source, filter={Symbol(_SESSION_FILTER): session.id})
        properties = {_LOCKED_UNTIL: Long(_TICKS_AT_EPOCH + int(session.locked_until * 10_000_000))}
    link.accept(
        source=source,
        target=link.attach.target or Target(),
        max_message_size=settings.max_message_bytes,
        properties=properties,
    )


def _session_id(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ServiceBusError(ARGUMENT_ERROR, "The session ID must be a string.")
    if value is not None and len(value) > MAX_ID_CHARACTERS:
        raise ServiceBusError(ARGUMENT_ERROR, f"The session ID is longer than {MAX_ID_CHARACTERS} characters.")
    return value


def _property(link: Link, wanted: str) -> object:
    return next((value for name, value in (link.attach.properties or {}).items() if str(name) == wanted), None)
