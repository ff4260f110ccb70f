"""A Service Bus message as this project sees it: no SDK type, so everything above can be tested with plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

PropertyValue = str | int | float | bool | None
"""What an application property may be here; other AMQP types (UUID, timestamp, …) arrive as their text."""

MAX_ID_CHARACTERS = 128
"""Service Bus's limit for message, session and correlation IDs, in UTF-16 units as the service counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to send. The field names are those of Service Bus."""

    body: bytes = field(repr=False)
    """Kept out of the representation: it may hold a claim."""
    content_type: str | None = None
    message_id: str | None = None
    correlation_id: str | None = None
    session_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    subject: str | None = None
    time_to_live: timedelta | None = None
    scheduled_at: datetime | None = None
    """Not to be delivered before; None: at once."""
    application_properties: Mapping[str, PropertyValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage(Message):
    """A message as the broker delivered it; times are aware, in UTC, by the broker's clock."""

    enqueued_at: datetime
    expires_at: datetime | None = None
    delivery_count: int = 0
    """How often it was delivered before this time."""
    sequence_number: int = 0


def fits_id(text: str) -> bool:
    """Whether `text` is short enough to be an ID in Service Bus."""
    return len(text.encode("utf-16-le", "surrogatepass")) <= 2 * MAX_ID_CHARACTERS
