"""A Service Bus message without SDK types, so that tests of the code above the adapter need plain data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

PropertyValue = str | int | float | bool | None
"""The types of an application property. Values of other AMQP types (UUID, timestamp, …) arrive as text."""

MAX_ID_CHARACTERS = 128
"""The limit of Service Bus for message, session and correlation IDs. The service counts UTF-16 code units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to send. The fields have the names of Service Bus."""

    body: bytes = field(repr=False)
    """Not part of the representation, because it may hold a claim."""
    content_type: str | None = None
    content_encoding: str | None = None
    """For example `gzip`. Service Bus has no such field, but AMQP has."""
    message_id: str | None = None
    correlation_id: str | None = None
    session_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    subject: str | None = None
    time_to_live: timedelta | None = None
    scheduled_at: datetime | None = None
    """Service Bus does not deliver the message before this time; None: it delivers at once."""
    application_properties: Mapping[str, PropertyValue] = field(default_factory=dict)

    def with_property(self, name: str, value: PropertyValue) -> Message:
        """Return the message with another application property. Much faster than `dataclasses.replace`."""
        return Message(
            body=self.body,
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            message_id=self.message_id,
            correlation_id=self.correlation_id,
            session_id=self.session_id,
            reply_to=self.reply_to,
            reply_to_session_id=self.reply_to_session_id,
            subject=self.subject,
            time_to_live=self.time_to_live,
            scheduled_at=self.scheduled_at,
            application_properties={**self.application_properties, name: value},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage(Message):
    """A message as the broker delivered it. Times are in UTC, by the broker's clock."""

    enqueued_at: datetime
    expires_at: datetime | None = None
    delivery_count: int = 0
    """The number of deliveries before this one."""
    sequence_number: int = 0
    undecodable: tuple[str, ...] = ()
    """The parts with AMQP values that the adapter cannot decode, for example `body`. It left out those values."""


def property_of(message: Message, name: str) -> PropertyValue:
    """Return an application property that a sender wrote, whatever the case of its name; None if there is none.

    A sender over HTTP writes it as a header. Clients and proxies change the case of headers, and HTTP/2 lowers it.
    """
    properties = message.application_properties
    if (value := properties.get(name)) is not None:
        return value
    lower = name.lower()
    return next((value for key, value in properties.items() if key.lower() == lower and value is not None), None)


def fits_id(text: str) -> bool:
    """Return whether `text` is short enough for an ID in Service Bus."""
    # "surrogatepass": the text may come from a sender, and a lone surrogate must not raise here.
    return len(text.encode("utf-16-le", "surrogatepass")) <= 2 * MAX_ID_CHARACTERS
