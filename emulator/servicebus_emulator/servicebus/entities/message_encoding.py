"""Encodes and decodes messages as AMQP sections.

Sources: AMQP 1.0 part 3 section 3.2 (message format); Microsoft Learn, "AMQP 1.0 in Azure Service Bus and Event Hubs
protocol guide", "Messages" (the annotations of the service).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from servicebus_emulator.amqp import (
    DecodeError,
    Described,
    Int,
    Long,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    decode,
    encode,
)
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
from servicebus_emulator.servicebus.entities.message import MAX_ID_CHARACTERS, BrokeredMessage, MessageState
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, NOT_ALLOWED, ServiceBusError

BATCH_FORMAT = 0x80013700
"""The message-format of a transfer that carries a batch."""
_MAX_UINT = 0xFFFFFFFF
_LAST_TIME = 253_402_300_799_999
"""The last millisecond of the year 9999, beyond which clients have no date."""
_HEADER_FIELDS = 5
_PROPERTIES_FIELDS = 13

_SCHEDULED = Symbol("x-opt-scheduled-enqueue-time")
_PARTITION_KEY = Symbol("x-opt-partition-key")
_SEQUENCE_NUMBER = Symbol("x-opt-sequence-number")
_ENQUEUED_TIME = Symbol("x-opt-enqueued-time")
_LOCKED_UNTIL = Symbol("x-opt-locked-until")
_LOCK_TOKEN = Symbol("x-opt-lock-token")
_STATE = Symbol("x-opt-message-state")
_ENQUEUE_SEQUENCE_NUMBER = Symbol("x-opt-enqueue-sequence-number")
_DEAD_LETTER_SOURCE = Symbol("x-opt-deadletter-source")
_BROKER_ANNOTATIONS = {
    _SEQUENCE_NUMBER,
    _ENQUEUED_TIME,
    _LOCKED_UNTIL,
    _STATE,
    _ENQUEUE_SEQUENCE_NUMBER,
    _DEAD_LETTER_SOURCE,
}
"""The annotations that only the broker sets. A client that sends on a received message still carries the old ones."""


def encode_section(code: int, value: object) -> bytes:
    """Return the bytes of one message section."""
    return encode(Described(ULong(code), value))


# --- from the sender ---------------------------------------------------------------------------------------------


def parse_message(payload: bytes) -> BrokeredMessage:
    """Decode a message as sent. Raises `ServiceBusError` (argument-error or not-allowed) for an invalid one."""
    try:
        return _parse(payload)
    except DecodeError as error:
        raise ServiceBusError(ARGUMENT_ERROR, f"not an AMQP message: {error}") from error


def parse_batch(payload: bytes) -> list[BrokeredMessage]:
    """Decode a batch: each data section of the envelope is a complete message. Raises like `parse_message`."""
    try:
        bodies = [_section_value(payload[start:end]) for code, start, end in split(payload) if code == DATA]
    except DecodeError as error:
        raise ServiceBusError(ARGUMENT_ERROR, f"not a batch: {error}") from error
    return [parse_message(body) for body in bodies if isinstance(body, bytes)]


def _parse(payload: bytes) -> BrokeredMessage:
    sections, body = _sections(payload)
    header = _fields(sections.get(HEADER), _HEADER_FIELDS)
    properties = _fields(sections.get(PROPERTIES), _PROPERTIES_FIELDS)
    annotations = _annotations(sections)
    scheduled = annotations.get(_SCHEDULED)
    message = BrokeredMessage(
        header=_durability(header),
        delivery_annotations=_delivery_annotations(sections),
        annotations=annotations,
        properties=sections.get(PROPERTIES, b""),
        application_properties=sections.get(APPLICATION_PROPERTIES, b""),
        body=body,
        footer=sections.get(FOOTER, b""),
        message_id=properties[0],
        session_id=_text(properties[10], "group-id (session ID)"),
        partition_key=_text(annotations.get(_PARTITION_KEY), "partition key"),
        ttl=_time_to_live(header[2], properties[8], properties[9]),
        scheduled_at=None if scheduled is None else _whole(scheduled, "scheduled enqueue time", _LAST_TIME) / 1000,
        size=len(payload),
    )
    _check_ids(message)
    if message.message_id is None:
        # SDKs store lock renewals by message ID, so the service assigns one to a message without it.
        message.message_id = uuid.uuid4().hex
        message.properties = encode_section(PROPERTIES, [message.message_id, *properties[1:]])
    return message


def _sections(payload: bytes) -> tuple[dict[int, bytes], bytes]:
    """Return the encoded sections by code, and all body sections in one piece."""
    sections: dict[int, bytes] = {}
    body = bytearray()
    # In any order. The Python SDK sends delivery-annotations last; in AMQP 1.0 (part 3 section 3.2) they precede the
    # body.
    for code, start, end in split(payload):
        if code in {DATA, AMQP_SEQUENCE, AMQP_VALUE}:
            body += payload[start:end]
        else:
            sections[code] = payload[start:end]
    return sections, bytes(body)


def _annotations(sections: Mapping[int, bytes]) -> dict[object, object]:
    annotations = _map(sections.get(MESSAGE_ANNOTATIONS))
    # The Python SDK decodes a received partition key as bytes and sends it on like this.
    if isinstance(key := annotations.get(_PARTITION_KEY), bytes):
        annotations[_PARTITION_KEY] = key.decode(errors="replace")
    return {name: value for name, value in annotations.items() if name not in _BROKER_ANNOTATIONS}


def _delivery_annotations(sections: Mapping[int, bytes]) -> dict[object, object]:
    annotations = _map(sections.get(DELIVERY_ANNOTATIONS))
    annotations.pop(_LOCK_TOKEN, None)
    return annotations


def _check_ids(message: BrokeredMessage) -> None:
    for name, value in (("message ID", message.message_id), ("session ID", message.session_id)):
        if isinstance(value, str) and len(value) > MAX_ID_CHARACTERS:
            raise ServiceBusError(ARGUMENT_ERROR, f"the {name} is longer than {MAX_ID_CHARACTERS} characters")
    # The empty text is a valid session ID. The service accepts any partition key with it.
    if message.partition_key is not None and message.session_id and message.session_id != message.partition_key:
        raise ServiceBusError(NOT_ALLOWED, "the partition key must be the same as the session ID, or left out")


def _time_to_live(header_ttl: object, absolute_expiry: object, creation: object) -> float | None:
    if header_ttl is not None:
        return _whole(header_ttl, "ttl", _MAX_UINT) / 1000
    if absolute_expiry is not None and creation is not None:
        expiry = _whole(absolute_expiry, "absolute-expiry-time", _LAST_TIME)
        return max(0, expiry - _whole(creation, "creation-time", _LAST_TIME)) / 1000
    return None


# --- to the receiver ---------------------------------------------------------------------------------------------


def encode_delivery(message: BrokeredMessage, *, lock_token: uuid.UUID | None) -> bytes:
    """Return the bytes of a delivery. `lock_token` is None for receive-and-delete.

    The bytes always hold a delivery count and delivery annotations, even if empty. SDKs expect both from the service.
    """
    durable, priority, first_acquirer = message.header
    ttl = None if message.ttl is None else UInt(min(int(message.ttl * 1000), _MAX_UINT))
    delivery_annotations = dict(message.delivery_annotations)
    if lock_token is not None:
        delivery_annotations[_LOCK_TOKEN] = lock_token
    return b"".join(
        (
            encode_section(HEADER, [durable, priority, ttl, first_acquirer, UInt(message.delivery_count)]),
            encode_section(DELIVERY_ANNOTATIONS, delivery_annotations),
            encode_section(MESSAGE_ANNOTATIONS, _broker_annotations(message, locked=lock_token is not None)),
            message.properties,
            message.application_properties,
            message.body,
            message.footer,
        )
    )


def encode_peeked(message: BrokeredMessage, *, without_body: bool = False) -> bytes:
    """Return the bytes of a message that a client peeks; `without_body` leaves out all body sections."""
    return encode_delivery(replace(message, body=b"") if without_body else message, lock_token=None)


def _broker_annotations(message: BrokeredMessage, *, locked: bool) -> dict[object, object]:
    annotations = dict(message.annotations)
    annotations[_ENQUEUED_TIME] = Timestamp(int(message.enqueued_at * 1000))
    annotations[_SEQUENCE_NUMBER] = Long(message.sequence_number)
    if message.enqueue_sequence_number is not None:
        annotations[_ENQUEUE_SEQUENCE_NUMBER] = Long(message.enqueue_sequence_number)
    if message.dead_letter_source is not None:
        annotations[_DEAD_LETTER_SOURCE] = message.dead_letter_source
    if locked:
        annotations[_LOCKED_UNTIL] = Timestamp(int(message.locked_until * 1000))
    # The service keeps the state "scheduled" after activation; the JavaScript SDK's live tests assert it.
    state = message.state
    if message.was_scheduled and state is MessageState.ACTIVE:
        state = MessageState.SCHEDULED
    if state is not MessageState.ACTIVE:
        annotations[_STATE] = Int(state)
    return annotations


# --- on settlement -----------------------------------------------------------------------------------------------


def set_dead_letter_reason(
    message: BrokeredMessage, reason: str | None, description: str | None, properties: Mapping[str, object]
) -> None:
    """Write the reason of a dead-lettering, and modified properties, into the application properties."""
    reasons = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
    given = {name: value for name, value in reasons.items() if value is not None}
    modify_properties(message, {**properties, **given})


def modify_properties(message: BrokeredMessage, properties: Mapping[str, object]) -> None:
    """Add or replace application properties. Encodes the section again only if there is something to change.

    Properties that cannot be decoded are lost. The broker accepted them, so it must also dead-letter their message.
    """
    if properties:
        modified = {**_decodable_properties(message.application_properties), **properties}
        message.application_properties = encode_section(APPLICATION_PROPERTIES, modified)


def _decodable_properties(section: bytes) -> dict[str, object]:
    try:
        return {name: value for name, value in _map(section).items() if isinstance(name, str)}
    except DecodeError:
        return {}


# --- decoding ----------------------------------------------------------------------------------------------------


def _fields(section: bytes | None, count: int) -> list[object]:
    """Return the fields of a list section. AMQP lets a sender omit trailing nulls; they are filled in."""
    value = _section_value(section) if section else []
    if not isinstance(value, list):
        raise DecodeError("a header or properties section must hold a list")
    return [*value, *[None] * (count - len(value))]


def _map(section: bytes | None) -> dict[object, object]:
    value = _section_value(section) if section else {}
    if not isinstance(value, dict):
        raise DecodeError("an annotations section must hold a map")
    return value


def _section_value(section: bytes) -> object:
    described, _ = decode(section)
    if not isinstance(described, Described):
        raise DecodeError("a section must be a described value")
    return described.value


def _text(value: object, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ServiceBusError(ARGUMENT_ERROR, f"the {name} must be a string")


def _whole(value: object, name: str, most: int) -> int:
    """Return a number of milliseconds. A fraction, and what no client can read, would break each delivery."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ServiceBusError(ARGUMENT_ERROR, f"the {name} must be a whole number from 0 to {most}")
    return value


def _durability(header: Sequence[object]) -> tuple[object, object, object]:
    """Return durable, priority and first-acquirer of the header."""
    durable, priority, _, first_acquirer = header[:4]
    for name, value, kind in (
        ("durable", durable, bool),
        ("priority", priority, UByte),
        ("first-acquirer", first_acquirer, bool),
    ):
        if value is not None and not isinstance(value, kind):
            raise ServiceBusError(ARGUMENT_ERROR, f"the {name} of the header has the wrong type")
    return durable, priority, first_acquirer
