"""Auto-forwarding: moves messages and dead letters to another queue.

Sources: Microsoft Learn, "Chaining Service Bus entities with autoforwarding"; for rejected messages, "Overview of
Service Bus dead-letter queues".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from servicebus_emulator.servicebus.entities.dead_lettering import DeadLetterTarget
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import set_dead_letter_reason
from servicebus_emulator.servicebus.entities.queue_settings import (
    DEAD_LETTER_SUFFIX,
    MAX_FORWARDING_HOPS,
    TRANSFER_DEAD_LETTER_SUFFIX,
)
from servicebus_emulator.servicebus.entities.queue_state import QueueState
from servicebus_emulator.servicebus.errors import ServiceBusError

_TOO_MANY_HOPS = "MaxTransferHopCountExceeded"
"""The dead-letter reason of the service (Microsoft Learn, "Overview of Service Bus dead-letter queues")."""


class ForwardingTarget(Protocol):
    """A queue that messages are forwarded to."""

    def accept_forwarded(self, message: BrokeredMessage) -> None:
        """Accept a forwarded message. Raises `ServiceBusError`."""
        ...


class Forwarding:
    """Forwards the messages of one queue.

    `find`: returns a queue by name, or raises `ServiceBusError`. `rejected`: gets the messages that their target does
    not accept.
    """

    def __init__(self, state: QueueState, find: Callable[[str], ForwardingTarget], rejected: DeadLetterTarget) -> None:
        self._state = state
        self._find = find
        self._rejected = rejected

    def forward(self, message: BrokeredMessage, target: str) -> None:
        """Move a message to the target now. One that the target rejects moves to the transfer dead-letter queue."""
        self._state.remove(message)
        try:
            self._find(target).accept_forwarded(message)
        except ServiceBusError as error:
            text = f"could not be forwarded to '{target}': {error.description}"
            set_dead_letter_reason(message, error.condition, text, {})
            self._rejected.add_dead_letter(message)

    def forward_dead_letter(self, message: BrokeredMessage, target: str) -> bool:
        """Move a dead letter to the target; return False if the target rejects it.

        A rejected dead letter stays in the dead-letter queue, where operators expect it.
        """
        source = self._state.key.removesuffix(TRANSFER_DEAD_LETTER_SUFFIX).removesuffix(DEAD_LETTER_SUFFIX)
        message.dead_letter_source = message.dead_letter_source or source
        try:
            self._find(target).accept_forwarded(message)
        except ServiceBusError:
            return False
        self._state.remove(message)
        return True


def forwarded(message: BrokeredMessage) -> BrokeredMessage:
    """Return the copy of a message that its target stores.

    The time to live and the delivery count start again in the target. Raises `ServiceBusError` after too many hops,
    which ends a circle of queues.
    """
    if message.hops >= MAX_FORWARDING_HOPS:
        raise ServiceBusError(_TOO_MANY_HOPS, f"it was forwarded {MAX_FORWARDING_HOPS} times already")
    return replace(
        message,
        enqueue_sequence_number=message.enqueue_sequence_number or message.sequence_number,
        expires_at=math.inf,
        delivery_count=0,
        hops=message.hops + 1,
    )
