"""Request/response over AMQP, as `$cbs` and `$management` do it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from servicebus_emulator.amqp import DecodeError, Described, Error, Link, decode
from servicebus_emulator.amqp.sections import AMQP_VALUE, APPLICATION_PROPERTIES, DATA, PROPERTIES, split
from servicebus_emulator.servicebus.entities.message import section
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, RESOURCE_LIMIT_EXCEEDED, ServiceBusError
from servicebus_emulator.servicebus.links.consumer import MAX_BACKLOG_BYTES

MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Answers that may wait on one link."""


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
        section(PROPERTIES, properties)
        + section(APPLICATION_PROPERTIES, dict(response.properties))
        + section(AMQP_VALUE, response.body)
    )


class ReplyLink:
    """A link answers go out on; they wait here while the client gives no credit."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._sent = 0

    def answers_to(self, reply_to: str | None) -> bool:
        """Whether a request with this reply-to wants its answer here: by target address, or by link name."""
        target = self.link.attach.target
        address = target.address if target is not None else None
        return reply_to in {address, self.link.name}

    def send(self, payload: bytes) -> None:
        """Send, now or when there is credit. A link on which too much waits is detached."""
        self._waiting.append(payload)
        self._waiting_bytes += len(payload)
        self.flush()
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting.clear()
            self._waiting_bytes = 0
            self.link.detach(Error(RESOURCE_LIMIT_EXCEEDED, "Too many answers wait for credit, or to be read.", {}))

    def flush(self) -> None:
        """Send what credit allows, and what the client has read so far."""
        while self._waiting and self._may_send():
            payload = self._waiting.popleft()
            self._waiting_bytes -= len(payload)
            self._sent += 1
            self.link.send(payload, tag=self._sent.to_bytes(8, "big"), settled=True)

    def _may_send(self) -> bool:
        link = self.link
        return link.open and link.credit > 0 and link.pending_output_bytes < MAX_BACKLOG_BYTES


def choose(links: list[ReplyLink], reply_to: str | None) -> ReplyLink | None:
    """Where the answer goes: the link that matches reply-to, else the only one."""
    named = [link for link in links if reply_to is not None and link.answers_to(reply_to)]
    if named:
        return named[-1]
    return links[-1] if links else None


def _value(section: bytes) -> object:
    described, _ = decode(section)
    return described.value if isinstance(described, Described) else None
