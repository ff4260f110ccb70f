"""Looks into queues, and deletes a queue and makes it again, with the SDK's own clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import ServiceBusClient, ServiceBusSubQueue
from azure.servicebus.management import ServiceBusAdministrationClient

from tests.faults.storm.configuration import connection_string

_KEPT = (
    "lock_duration",
    "max_delivery_count",
    "dead_lettering_on_message_expiration",
    "requires_duplicate_detection",
    "duplicate_detection_history_time_window",
    "requires_session",
)


class _PlainTransport(RequestsTransport):  # type: ignore[misc]  # the SDK's class is untyped
    """Sends plain HTTP: the client always uses HTTPS."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


def recreate(admin_port: int, queue: str) -> None:
    """Delete the queue with its dead-letter queue, and make it again."""
    with ServiceBusAdministrationClient.from_connection_string(
        connection_string(admin_port), transport=_PlainTransport()
    ) as client:
        before = client.get_queue(queue)
        client.delete_queue(queue)
        client.create_queue(queue, **{name: getattr(before, name) for name in _KEPT})


def correlation_ids(broker_port: int, queues: Sequence[str], *, dead: bool = False) -> set[str]:
    """Return the correlation IDs of the messages in these queues, or in their dead-letter queues."""
    found: set[str] = set()
    sub_queue = ServiceBusSubQueue.DEAD_LETTER if dead else None
    with ServiceBusClient.from_connection_string(connection_string(broker_port)) as client:
        for queue in queues:
            with client.get_queue_receiver(queue, sub_queue=sub_queue) as receiver:
                sequence_number = 1
                while page := receiver.peek_messages(200, sequence_number=sequence_number):
                    found |= {str(message.correlation_id) for message in page}
                    sequence_number = max(message.sequence_number or 0 for message in page) + 1
    return found
