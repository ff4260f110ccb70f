"""A brokered message, as the broker stores it: the sender's sections as bytes, and the broker's own fields."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from enum import IntEnum

MAX_ID_CHARACTERS = 128
"""The maximum length of a message ID and of a session ID (Microsoft Learn, "Service Bus quotas")."""


class MessageState(IntEnum):
    """The values of the annotation `x-opt-message-state`."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2


@dataclass(slots=True, eq=False)
class BrokeredMessage:
    """One message. Moments are seconds since the epoch, durations are seconds.

    `header`: the fields durable, priority and first-acquirer. `properties`, `application_properties`, `body` and
    `footer`: the encoded sections of the sender, because decoding and encoding again could change them.
    `was_scheduled`: the message was scheduled once; the service keeps the state annotation of such a message.
    `enqueue_sequence_number`: the number of a forwarded message in the queue that it was sent to.
    `dead_letter_source`: the queue whose dead letter was forwarded. `hops`: the number of times it was forwarded.
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
    expires_at: float = math.inf
    delivery_count: int = 0
    state: MessageState = MessageState.ACTIVE
    was_scheduled: bool = False
    lock_token: uuid.UUID | None = None
    locked_until: float = 0.0
    enqueue_sequence_number: int | None = None
    dead_letter_source: str | None = None
    hops: int = 0

    @property
    def duplicate_key(self) -> str | None:
        """The text that duplicate detection compares."""
        return None if self.message_id is None else str(self.message_id)
