"""Messages that azure-servicebus can send and cannot decode."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from azure.servicebus.amqp import AmqpAnnotatedMessage

_DEPTH = 100
"""Its decoder takes 64."""


def too_deep(
    message_id: str, *, ttl_ms: int | None = None, scheduled_in: timedelta | None = None
) -> AmqpAnnotatedMessage:
    """A request whose body is lists within lists."""
    body: list[object] = []
    for _ in range(_DEPTH):
        body = [body]
    annotations = {"x-opt-scheduled-enqueue-time": datetime.now(UTC) + scheduled_in} if scheduled_in else {}
    return AmqpAnnotatedMessage(
        value_body=body,
        header={"time_to_live": ttl_ms} if ttl_ms else None,
        properties={"message_id": message_id},
        annotations=annotations,
        application_properties={"contract": "flow-request/1"},
    )
