"""Traces the client's requests if `opentelemetry-api` is installed and an SDK is set up.

The client does not depend on OpenTelemetry. Without it, the caller's own `traceparent` is sent as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flow_contracts.message import Message
from flow_contracts.trace_context import TRACEPARENT

try:
    from opentelemetry import trace
except ImportError:
    _trace: Any = None
else:
    _trace = trace


@dataclass
class Sending:
    """A request that is being sent."""

    message: Message


@contextmanager
def sending(queue: str, message: Message) -> Iterator[Sending]:
    """Open the span of a send operation, a child of the current span; the message continues its trace.

    A request whose caller gave it a trace context keeps that. The span has no exception, because its text may quote a
    name that a sender keeps to itself.
    """
    if _trace is None or TRACEPARENT in message.application_properties:
        yield Sending(message)
        return
    span = _trace.get_tracer("flow_contracts").start_span(
        f"send {queue}",
        kind=_trace.SpanKind.PRODUCER,
        attributes={
            "messaging.system": "servicebus",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            "messaging.message.id": message.message_id or "",
            "messaging.message.conversation_id": message.correlation_id or "",
            "az.namespace": "Microsoft.ServiceBus",
        },
    )
    context = span.get_span_context()
    if context.is_valid:
        text = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        message = message.with_property(TRACEPARENT, text)
    try:
        yield Sending(message)
    except BaseException as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(_trace.StatusCode.ERROR)
        raise
    finally:
        span.end()
