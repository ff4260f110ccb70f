"""Request/response over AMQP, as `$cbs` and `$management` do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from servicebus_emulator.amqp import DecodeError, Described, decode
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES, DATA, PROPERTIES, split
from servicebus_emulator.servicebus.entities.message_encoding import encode_section
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, ServiceBusError


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `message_id` keeps its AMQP type: the answer must carry the very same."""

    message_id: object
    reply_to: str | None
    properties: Mapping[str, object]
    body: object


@dataclass(frozen=True, slots=True)
class Response:
    """Its answer: application properties and the body value."""

    properties: Mapping[str, object]
    body: object = None


def read(payload: bytes) -> Request:
    """Read a request. Raises `ServiceBusError` if it is none."""
    message_id: object = None
    reply_to: object = None
    properties: dict[str, object] = {}
    body: object = None
    try:
        for code, start, end in split(payload):
            value = _value(payload[start:end])
            if code == PROPERTIES and isinstance(value, list):
                message_id = value[0] if value else None
                reply_to = value[4] if len(value) > 4 else None
            elif code == APPLICATION_PROPERTIES and isinstance(value, dict):
                properties = {str(key): item for key, item in value.items()}
            elif code in {AMQP_VALUE, DATA}:
                body = value
    except DecodeError as error:
        raise ServiceBusError(ARGUMENT_ERROR, f"not a request: {error}") from error
    return Request(message_id, reply_to if isinstance(reply_to, str) else None, properties, body)


def write(request: Request, response: Response) -> bytes:
    """The bytes of an answer."""
    properties = [None, None, None, None, None, request.message_id]
    return (
        encode_section(PROPERTIES, properties)
        + encode_section(APPLICATION_PROPERTIES, dict(response.properties))
        + encode_section(AMQP_VALUE, response.body)
    )


def _value(encode_section: bytes) -> object:
    described, _ = decode(encode_section)
    return described.value if isinstance(described, Described) else None
