"""A message as the broker keeps it: what the sender wrote, byte for byte, and what the broker adds on delivery."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from servicebus_emulator.amqp import DecodeError, Described, Int, Long, Symbol, Timestamp, UInt, ULong, decode, encode
from servicebus_emulator.amqp.sections import (
    AMQP_SEQUENCE,
    AMQP_VALUE,
    APPLICATION_PROPERTIES,
    DATA,
    DELIVERY_ANNOTATIONS,
    FOOTER,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    split,
)
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, NOT_ALLOWED, ServiceBusError

BATCH_FORMAT = 0x80013700
MAX_ID_CHARACTERS = 128

_SCHEDULED = Symbol("x-opt-scheduled-enqueue-time")
_PARTITION_KEY = Symbol("x-opt-partition-key")
_SEQUENCE_NUMBER = Symbol("x-opt-sequence-number")
_ENQUEUED_TIME = Symbol("x-opt-enqueued-time")
_LOCKED_UNTIL = Symbol("x-opt-locked-until")
_LOCK_TOKEN = Symbol("x-opt-lock-token")
_STATE = Symbol("x-opt-message-state")
_ENQUEUE_SEQUENCE_NUMBER = Symbol("x-opt-enqueue-sequence-number")
_DEAD_LETTER_SOURCE = Symbol("x-opt-deadletter-source")
_BROKERS_OWN = {
    _SEQUENCE_NUMBER,
    _ENQUEUED_TIME,
    _LOCKED_UNTIL,
    _STATE,
    _ENQUEUE_SEQUENCE_NUMBER,
    _DEAD_LETTER_SOURCE,
}


class MessageState(IntEnum):
    """`x-opt-message-state`."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


@dataclass(slots=True, eq=False)
class Message:
    """One message. Times are seconds since the epoch, durations seconds.

    `was_scheduled` keeps the state annotation at 2 after activation, as the service does. `body` holds the body
    sections and `properties` the properties section as the sender encoded them.
    """

    header: tuple[object, object, object]
    delivery_annotations: dict[object, object]
    annotations: dict[object, object]
    properties: bytes
    application_properties: bytes
    body: bytes
    footer: bytes
    message_id: object
    session_id: str | None
    partition_key: str | None
    ttl: float | None
    scheduled_at: float | None
    size: int
    sequence_number: int = 0
    enqueued_at: float = 0.0
    expires_at: float = float("inf")
    delivery_count: int = 0
    state: MessageState = MessageState.ACTIVE
    was_scheduled: bool = False
    lock_token: uuid.UUID | None = field(default=None)
    locked_until: float = 0.0
    enqueue_sequence_number: int | None = None
    """Of a forwarded message: its number in the queue it was sent to."""
    dead_letter_source: str | None = None
    """Of a message forwarded from a dead-letter queue: whose."""
    hops: int = 0
    """How often it was forwarded."""

    @property
    def dedup_key(self) -> str | None:
        """What duplicate detection compares."""
        return None if self.message_id is None else str(self.message_id)


def parse(payload: bytes) -> Message:
    """Read a message as sent. Raises `ServiceBusError` if it is none."""
    try:
        return _parse(payload)
    except DecodeError as error:
        raise ServiceBusError(ARGUMENT_ERROR, f"not an AMQP message: {error}") from error


def parse_batch(payload: bytes) -> list[Message]:
    """Read a batch envelope: each data section is a whole message. Raises `ServiceBusError`."""
    try:
        bodies = [_value(payload, start, end) for code, start, end in split(payload) if code == DATA]
    except DecodeError as error:
        raise ServiceBusError(ARGUMENT_ERROR, f"not a batch: {error}") from error
    return [parse(body) for body in bodies if isinstance(body, bytes)]


def encode_delivery(message: Message, *, lock_token: uuid.UUID | None) -> bytes:
    """The bytes of a delivery: under a lock, or (None) taken for good."""
    durable, priority, first = message.header
    ttl = None if message.ttl is None else UInt(min(int(message.ttl * 1000), 0xFFFFFFFF))
    header = [durable, priority, ttl, first, UInt(message.delivery_count)]
    delivery = dict(message.delivery_annotations)
    if lock_token is not None:
        delivery[_LOCK_TOKEN] = lock_token
    return b"".join(
        (
            section(HEADER, header),
            section(DELIVERY_ANNOTATIONS, delivery),
            _annotated(message, locked=lock_token is not None),
        )
    )


def section(code: int, value: object) -> bytes:
    """A message section's bytes."""
    return encode(Described(ULong(code), value))


def encode_peeked(message: Message, *, without_body: bool = False) -> bytes:
    """The bytes of a message that is only looked at; or without its body, of which no section is left."""
    shown = replace(message, body=b"") if without_body else message
    return encode_delivery(shown, lock_token=None)


def with_reason(message: Message, reason: str | None, description: str | None, more: Mapping[str, object]) -> None:
    """Write why a message is dead-lettered into its application properties."""
    properties: dict[object, object] = {}
    if message.application_properties:
        decoded = _value(message.application_properties, 0, len(message.application_properties))
        properties = dict(decoded) if isinstance(decoded, dict) else {}
    properties.update(more)
    for name, value in (("DeadLetterReason", reason), ("DeadLetterErrorDescription", description)):
        if value is not None:
            properties[name] = value
    if properties:
        message.application_properties = section(APPLICATION_PROPERTIES, properties)


def modify(message: Message, changes: Mapping[str, object]) -> None:
    """Write `properties-to-modify` of a settlement into the application properties."""
    if changes:
        with_reason(message, None, None, changes)


def _annotated(message: Message, *, locked: bool) -> bytes:
    annotations = dict(message.annotations)
    annotations[_ENQUEUED_TIME] = Timestamp(int(message.enqueued_at * 1000))
    annotations[_SEQUENCE_NUMBER] = Long(message.sequence_number)
    if message.enqueue_sequence_number is not None:
        annotations[_ENQUEUE_SEQUENCE_NUMBER] = Long(message.enqueue_sequence_number)
    if message.dead_letter_source is not None:
        annotations[_DEAD_LETTER_SOURCE] = message.dead_letter_source
    if locked:
        annotations[_LOCKED_UNTIL] = Timestamp(int(message.locked_until * 1000))
    state = MessageState.SCHEDULED if message.was_scheduled and message.state is MessageState.ACTIVE else message.state
    if state is not MessageState.ACTIVE:
        annotations[_STATE] = Int(state)
    return b"".join(
        (
            section(MESSAGE_ANNOTATIONS, annotations),
            message.properties,
            message.application_properties,
            message.body,
            message.footer,
        )
    )


def _parse(payload: bytes) -> Message:
    raw: dict[int, bytes] = {}
    body = bytearray()
    for code, start, end in split(payload):
        if code in {DATA, AMQP_SEQUENCE, AMQP_VALUE}:
            body += payload[start:end]
        else:
            raw[code] = payload[start:end]
    header = _fields(raw.get(HEADER), 5)
    properties = _fields(raw.get(PROPERTIES), 13)
    annotations = _map(raw.get(MESSAGE_ANNOTATIONS))
    if isinstance(key := annotations.get(_PARTITION_KEY), bytes):  # Python sends on what it has received like this
        annotations[_PARTITION_KEY] = key.decode(errors="replace")
    delivery_annotations = _map(raw.get(DELIVERY_ANNOTATIONS))
    for own in _BROKERS_OWN:
        annotations.pop(own, None)
    delivery_annotations.pop(_LOCK_TOKEN, None)
    scheduled = annotations.get(_SCHEDULED)
    message = Message(
        header=(header[0], header[1], header[3]),
        delivery_annotations=delivery_annotations,
        annotations=annotations,
        properties=raw.get(PROPERTIES, b""),
        application_properties=raw.get(APPLICATION_PROPERTIES, b""),
        body=bytes(body),
        footer=raw.get(FOOTER, b""),
        message_id=properties[0],
        session_id=_text(properties[10], "group-id (session ID)"),
        partition_key=_text(annotations.get(_PARTITION_KEY), "partition key"),
        ttl=_ttl(header[2], properties[8], properties[9]),
        scheduled_at=None if scheduled is None else _number(scheduled, "scheduled enqueue time") / 1000,
        size=len(payload),
    )
    _check_ids(message)
    if message.message_id is None:
        # SDKs key their lock bookkeeping by message ID, so the service gives one to messages that have none.
        message.message_id = uuid.uuid4().hex
        message.properties = section(PROPERTIES, [message.message_id, *_fields(raw.get(PROPERTIES), 13)[1:]])
    return message


def _check_ids(message: Message) -> None:
    for name, value in (("message ID", message.message_id), ("session ID", message.session_id)):
        if isinstance(value, str) and len(value) > MAX_ID_CHARACTERS:
            raise ServiceBusError(ARGUMENT_ERROR, f"the {name} is longer than {MAX_ID_CHARACTERS} characters")
    # An empty session ID is a session's, and yet the service takes any partition key beside it.
    if message.partition_key is not None and message.session_id and message.session_id != message.partition_key:
        raise ServiceBusError(NOT_ALLOWED, "the partition key must be the same as the session ID, or left out")


def _ttl(header_ttl: object, absolute_expiry: object, creation: object) -> float | None:
    if header_ttl is not None:
        return _number(header_ttl, "ttl") / 1000
    if absolute_expiry is not None and creation is not None:
        return max(0.0, (_number(absolute_expiry, "absolute-expiry-time") - _number(creation, "creation-time")) / 1000)
    return None


def _fields(section: bytes | None, count: int) -> list[object]:
    value = _value(section, 0, len(section)) if section else []
    if not isinstance(value, list):
        raise DecodeError("a header or properties section must hold a list")
    return [*value, *[None] * (count - len(value))]


def _map(section: bytes | None) -> dict[object, object]:
    value = _value(section, 0, len(section)) if section else {}
    if not isinstance(value, dict):
        raise DecodeError("an annotations section must hold a map")
    return value


def _value(data: bytes, start: int, end: int) -> object:
    described, _ = decode(data[start:end])
    if not isinstance(described, Described):
        raise DecodeError("a section must be a described value")
    return described.value


def _text(value: object, what: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ServiceBusError(ARGUMENT_ERROR, f"the {what} must be a string")


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ServiceBusError(ARGUMENT_ERROR, f"the {what} must be a number")
    return float(value)
