"""Builds messages that azure-servicebus can send but cannot decode."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from azure.servicebus.amqp import AmqpAnnotatedMessage

_DEPTH = 100
"""The levels of nesting. The SDK's decoder accepts 64."""


def undecodable_request(
    message_id: str, *, ttl_ms: int | None = None, scheduled_in: timedelta | None = None
) -> AmqpAnnotatedMessage:
    """Return a request whose body is nested too deeply; it expires after `ttl_ms`, if given."""
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
