"""The requests and responses of `$cbs` and `$management`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servicebus_emulator.amqp import DecodeError, Described, decode
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES, DATA, PROPERTIES, split
from servicebus_emulator.servicebus.entities.message_encoding import encode_section
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, ServiceBusError

_REPLY_TO = 4
"""The index of reply-to in the properties section (AMQP 1.0 part 3 section 3.2.4)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `message_id` keeps its AMQP type: SDKs look up the response by value and type."""

    message_id: object
    reply_to: str | None
    properties: Mapping[str, object]
    body: object


@dataclass(frozen=True, slots=True)
class Response:
    """The application properties and the body value of a response."""

    properties: Mapping[str, object]
    body: object = None


def parse_request(payload: bytes) -> Request:
    """Decode a request. Raises `ServiceBusError` (argument-error) for an invalid message."""
    message_id: object = None
    reply_to: object = None
    properties: dict[str, object] = {}
    body: object = None
    try:
        for code, start, end in split(payload):
            value = _section_value(payload[start:end])
            if code == PROPERTIES and isinstance(value, list):
                message_id = value[0] if value else None
                reply_to = value[_REPLY_TO] if len(value) > _REPLY_TO else None
            elif code == APPLICATION_PROPERTIES and isinstance(value, dict):
                properties = {str(key): item for key, item in value.items()}
            elif code in {AMQP_VALUE, DATA}:
                body = value
    except DecodeError as error:
        raise ServiceBusError(ARGUMENT_ERROR, f"not a request: {error}") from error
    return Request(message_id, reply_to if isinstance(reply_to, str) else None, properties, body)


def encode_response(request: Request, response: Response) -> bytes:
    """Return the bytes of a response. Its correlation ID is the message ID of the request."""
    properties = [None, None, None, None, None, request.message_id]
    return (
        encode_section(PROPERTIES, properties)
        + encode_section(APPLICATION_PROPERTIES, dict(response.properties))
        + encode_section(AMQP_VALUE, response.body)
    )


def _section_value(section: bytes) -> object:
    described, _ = decode(section)
    return described.value if isinstance(described, Described) else None
