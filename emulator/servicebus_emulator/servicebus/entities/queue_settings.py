"""The settings of a queue, as plain data, and the rules that hold between the settings of several queues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from servicebus_emulator.servicebus.access.policies import Policy
from servicebus_emulator.servicebus.duration import MAX_SECONDS

DEAD_LETTER_SUFFIX = "/$deadletterqueue"
TRANSFER_DEAD_LETTER_SUFFIX = "/$transfer" + DEAD_LETTER_SUFFIX
MAX_FORWARDING_HOPS = 4
MAX_LOCK_SECONDS = 300.0
MAX_NAME_CHARACTERS = 260
MAX_METADATA_CHARACTERS = 1024
IMMUTABLE_SETTINGS = ("requires_session", "requires_duplicate_detection")
"""The service rejects a change of these settings after it created the queue."""
_UNLIMITED_DELIVERIES = 10**9


class QueueStatus(StrEnum):
    """The operations that a queue allows, under the service's names."""

    ACTIVE = "Active"
    DISABLED = "Disabled"
    SEND_DISABLED = "SendDisabled"
    RECEIVE_DISABLED = "ReceiveDisabled"

    @property
    def can_send(self) -> bool:
        """True if clients may send messages to the queue."""
        return self in (QueueStatus.ACTIVE, QueueStatus.RECEIVE_DISABLED)

    @property
    def can_receive(self) -> bool:
        """True if clients may receive messages from the queue."""
        return self in (QueueStatus.ACTIVE, QueueStatus.SEND_DISABLED)


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """The settings of one queue. The defaults are the service's.

    `auto_delete_seconds`: the broker deletes the queue after this time without use.
    `batched_operations`, `partitioning` and `express`: stored and returned, without effect in the emulator.
    `renumber_dead_letters`: a message gets a new sequence number in the dead-letter queue instead of keeping its own.
    `policies`: the policies of this queue. The policies of the namespace apply to every queue in addition.
    """

    name: str
    lock_seconds: float = 60.0
    max_delivery_count: int = 10
    requires_session: bool = False
    requires_duplicate_detection: bool = False
    duplicate_detection_seconds: float = 600.0
    default_ttl_seconds: float = MAX_SECONDS
    dead_letter_on_expiration: bool = False
    max_message_bytes: int = 262_144
    max_size_mb: int = 1024
    status: QueueStatus = QueueStatus.ACTIVE
    forward_to: str | None = None
    forward_dead_letters_to: str | None = None
    auto_delete_seconds: float = MAX_SECONDS
    user_metadata: str = ""
    batched_operations: bool = True
    partitioning: bool = False
    express: bool = False
    renumber_dead_letters: bool = False
    policies: tuple[Policy, ...] = ()


def dead_letter_settings(parent: QueueSettings) -> QueueSettings:
    """Return the settings of a queue's dead-letter queue."""
    return _subqueue_settings(parent, DEAD_LETTER_SUFFIX, parent.forward_dead_letters_to)


def transfer_dead_letter_settings(parent: QueueSettings) -> QueueSettings:
    """Return the settings of the queue for messages that `parent` could not forward."""
    return _subqueue_settings(parent, TRANSFER_DEAD_LETTER_SUFFIX, None)


def _subqueue_settings(parent: QueueSettings, suffix: str, forward_to: str | None) -> QueueSettings:
    # A dead-letter queue has neither sessions nor a time to live nor a delivery limit, whatever its parent has. Its
    # messages stay until a receiver completes them (Microsoft Learn, "Overview of Service Bus dead-letter queues").
    return QueueSettings(
        name=parent.name + suffix,
        lock_seconds=parent.lock_seconds,
        max_delivery_count=_UNLIMITED_DELIVERIES,
        max_message_bytes=parent.max_message_bytes,
        max_size_mb=parent.max_size_mb,
        status=QueueStatus.ACTIVE if parent.status.can_receive else parent.status,
        forward_to=forward_to,
        renumber_dead_letters=parent.renumber_dead_letters,
    )


def check_forwarding_targets(queue: QueueSettings, queues: Mapping[str, QueueSettings]) -> None:
    """Raise `ValueError` if the queue forwards to a queue that does not exist.

    `queues` are the queues of the namespace by lower-case name. The service lets a queue forward to itself, and a queue
    with sessions forward (live tests of the administration client of azure-servicebus 7.15).
    """
    for target in (queue.forward_to, queue.forward_dead_letters_to):
        if target is not None and target.lower() not in queues:
            raise ValueError(f"queue '{queue.name}' forwards to '{target}', which is no queue")


def check_forwarding_chain(queue: QueueSettings, queues: Mapping[str, QueueSettings]) -> None:
    """Raise `ValueError` if forwarded messages do not reach the end of a chain of queues.

    Stricter than the service: in a configuration file, each of these cases is a mistake. Forwarding from a queue with
    sessions is not supported (Microsoft Learn, "Chaining Service Bus entities with autoforwarding").
    """
    check_forwarding_targets(queue, queues)
    if queue.forward_to is not None and queue.requires_session:
        raise ValueError(f"queue '{queue.name}' requires sessions, so it cannot forward; take out ForwardTo")
    for target in (queue.forward_to, queue.forward_dead_letters_to):
        _check_chain_end(queue, target, queues)


def _check_chain_end(queue: QueueSettings, target: str | None, queues: Mapping[str, QueueSettings]) -> None:
    hops, current = 0, target
    while current is not None and current.lower() in queues:
        if current.lower() == queue.name.lower():
            raise ValueError(f"queue '{queue.name}' forwards to itself")
        hops, current = hops + 1, queues[current.lower()].forward_to
        if hops > MAX_FORWARDING_HOPS:
            raise ValueError(
                f"queue '{queue.name}' forwards over more than {MAX_FORWARDING_HOPS} queues, or in a circle"
            )
