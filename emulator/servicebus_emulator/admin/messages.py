"""Conversion between messages of the REST data plane and messages of the broker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from servicebus_emulator.admin.properties import (
    BROKER_PROPERTIES,
    BrokerProperties,
    http_date,
    read_json,
    write_broker_properties,
    write_headers,
)
from servicebus_emulator.amqp import DecodeError, Described, Symbol, Timestamp, UInt, decode
from servicebus_emulator.amqp.sections import (
    APPLICATION_PROPERTIES,
    DATA,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    split,
)
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import encode_section, parse_message
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, ServiceBusError
from servicebus_emulator.validation import explain

_MAX_TTL_MILLISECONDS = 2**32 - 1
"""The largest `ttl` of an AMQP header. A longer time to live is carried by the absolute expiry time."""
_NO_TTL_SECONDS = 922337203685.47754
"""The service's value for no time to live: the longest .NET time span."""
_MAX_BATCH_MESSAGES = 4500


class _BatchMessage(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    body: str = Field(alias="Body")
    broker: BrokerProperties = Field(default_factory=BrokerProperties, alias="BrokerProperties")
    user: dict[str, JsonValue] = Field(default_factory=dict, alias="UserProperties")


_BATCH = TypeAdapter(list[_BatchMessage])


def to_message(
    body: bytes, broker: BrokerProperties, properties: Mapping[str, object], content_type: str | None, now: float
) -> BrokeredMessage:
    """Return a message as if it arrived over AMQP; the body is one data section.

    `now` is in seconds since the epoch. Raises `ServiceBusError` if a property is invalid.
    """
    ttl, scheduled = broker.ttl_seconds(), broker.scheduled_at()
    milliseconds = None if ttl is None else max(1, round(ttl * 1000))
    is_long = milliseconds is not None and milliseconds > _MAX_TTL_MILLISECONDS
    in_header = None if milliseconds is None or is_long else UInt(milliseconds)
    created = Timestamp(int(now * 1000)) if is_long else None
    expires = Timestamp(int(now * 1000) + milliseconds) if is_long and milliseconds is not None else None
    sections = [
        encode_section(HEADER, [None, None, in_header]),
        encode_section(MESSAGE_ANNOTATIONS, _annotations(broker, scheduled)),
        encode_section(
            PROPERTIES,
            [
                broker.message_id,
                None,
                broker.to,
                broker.label,
                broker.reply_to,
                broker.correlation_id,
                None if content_type is None else Symbol(content_type),
                None,
                expires,
                created,
                broker.session_id,
                None,
                broker.reply_to_session_id,
            ],
        ),
        encode_section(APPLICATION_PROPERTIES, dict(properties)) if properties else b"",
        encode_section(DATA, body),
    ]
    return parse_message(b"".join(sections))


def read_batch(body: bytes, now: float) -> list[BrokeredMessage]:
    """Return the messages of a batch. Raises `ServiceBusError`, which names the faulty message."""
    try:
        batch = _BATCH.validate_json(body)
    except ValidationError as error:
        raise ServiceBusError(ARGUMENT_ERROR, f"The batch is invalid: {explain(error)}.") from None
    if not 1 <= len(batch) <= _MAX_BATCH_MESSAGES:
        raise ServiceBusError(ARGUMENT_ERROR, f"A batch has 1 to {_MAX_BATCH_MESSAGES} messages, not {len(batch)}.")
    return [to_message(item.body.encode(), item.broker, read_json(item.user), None, now) for item in batch]


def http_body(message: BrokeredMessage) -> bytes:
    """Return the bytes of the data sections; a text as UTF-8, any other value as JSON."""
    values = [_value(message.body[start:end]) for _, start, end in split(message.body)]
    if all(isinstance(value, bytes) for value in values):
        return b"".join(value for value in values if isinstance(value, bytes))
    if len(values) == 1 and isinstance(values[0], str):
        return values[0].encode()
    return json.dumps(values[0] if len(values) == 1 else values, default=str, ensure_ascii=False).encode()


def http_headers(message: BrokeredMessage) -> dict[str, str]:
    """Return the headers: application properties, broker properties and content type."""
    properties = _properties(message)
    application = _section(message.application_properties)
    content_type = properties[6]
    headers = write_headers(application if isinstance(application, dict) else {})
    headers[BROKER_PROPERTIES] = write_broker_properties(_broker_properties(message, properties))
    if isinstance(content_type, str) and content_type.isprintable():
        headers["Content-Type"] = content_type
    return headers


def _broker_properties(message: BrokeredMessage, properties: list[object]) -> dict[str, object]:
    locked = message.lock_token is not None
    expires = message.expires_at != float("inf")
    return {
        "CorrelationId": _text(properties[5]),
        "DeadLetterSource": message.dead_letter_source,
        "DeliveryCount": message.delivery_count + 1,
        "EnqueuedSequenceNumber": message.enqueue_sequence_number or 0,
        "EnqueuedTimeUtc": http_date(message.enqueued_at),
        "Label": _text(properties[3]),
        "LockToken": str(message.lock_token) if locked else None,
        "LockedUntilUtc": http_date(message.locked_until) if locked else None,
        "MessageId": _text(message.message_id),
        "PartitionKey": message.partition_key,
        "ReplyTo": _text(properties[4]),
        "ReplyToSessionId": _text(properties[12]),
        "ScheduledEnqueueTimeUtc": None if message.scheduled_at is None else http_date(message.scheduled_at),
        "SequenceNumber": message.sequence_number,
        "SessionId": message.session_id,
        "State": message.state.name.capitalize(),
        "TimeToLive": message.expires_at - message.enqueued_at if expires else _NO_TTL_SECONDS,
        "To": _text(properties[2]),
    }


def _annotations(broker: BrokerProperties, scheduled: datetime | None) -> dict[object, object]:
    annotations: dict[object, object] = {
        Symbol("x-opt-partition-key"): broker.partition_key,
        Symbol("x-opt-via-partition-key"): broker.via_partition_key,
        Symbol("x-opt-scheduled-enqueue-time"): None if scheduled is None else _timestamp(scheduled),
    }
    return {name: value for name, value in annotations.items() if value is not None}


def _timestamp(moment: datetime) -> Timestamp:
    return Timestamp(int(moment.timestamp() * 1000))


def _properties(message: BrokeredMessage) -> list[object]:
    section = _section(message.properties)
    fields = section if isinstance(section, list) else []
    return [*fields, *[None] * (13 - len(fields))]


def _section(encoded: bytes) -> object:
    return _value(encoded) if encoded else None


def _value(encoded: bytes) -> object:
    try:
        described, _ = decode(encoded)
    except DecodeError:
        return None  # a sender may send malformed sections; AMQP receivers get them unchanged
    return described.value if isinstance(described, Described) else described


def _text(value: object) -> str | None:
    return None if value is None else str(value)
