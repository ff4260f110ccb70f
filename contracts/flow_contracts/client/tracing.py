"""Traces the client's requests if `opentelemetry-api` is installed and an SDK is set up.

The client does not depend on OpenTelemetry. Without it, the caller's own `traceparent` is sent as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flow_contracts.message import Message
from flow_contracts.trace_context import TRACEPARENT, traceparent

try:
    from opentelemetry import trace
except ImportError:
    _trace: Any = None
else:
    _trace = trace


def current_traceparent() -> str | None:
    """Return the trace context of the current span, for a request over HTTP; None without one."""
    if _trace is None:
        return None
    context = _trace.get_current_span().get_span_context()
    return traceparent(context.trace_id, context.span_id, context.trace_flags) if context.is_valid else None


@contextmanager
def sending(queue: str, message: Message) -> Iterator[Message]:
    """Open the span of a send operation, a child of the current span. Yield the message, which continues its trace.

    A request whose caller gave it a trace context keeps that. The span has no exception, because its text may quote a
    name that a sender keeps to itself.
    """
    if _trace is None or TRACEPARENT in message.application_properties:
        yield message
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
        text = traceparent(context.trace_id, context.span_id, context.trace_flags)
        message = message.with_property(TRACEPARENT, text)
    try:
        yield message
    except BaseException as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(_trace.StatusCode.ERROR)
        raise
    finally:
        span.end()
