"""Traces the client's requests if `opentelemetry-api` is installed and an SDK is set up.

The client does not depend on OpenTelemetry. Without it, the caller's own `traceparent` is sent as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.trace_context import TRACEPARENT, read_traceparent, traceparent

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
        attributes=_attributes("send", "send", queue, message.message_id, message.correlation_id),
    )
    context = span.get_span_context()
    if context.is_valid:
        text = traceparent(context.trace_id, context.span_id, context.trace_flags)
        message = message.with_property(TRACEPARENT, text)
    with _ending(span):
        yield message


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a span names of a received message."""

    message_id: str | None
    correlation_id: str | None
    enqueued_at: datetime
    traceparent: str | None

    @classmethod
    def of(cls, message: ReceivedMessage) -> Self:
        """Return the receipt of a message."""
        return cls(message.message_id, message.correlation_id, message.enqueued_at, read_traceparent(message))


class Receiving:
    """A receive operation that begins now. It has a span only if it finds a message."""

    def __init__(self, operation: Literal["receive", "peek"], queue: str) -> None:
        """`peek` leaves the message in the queue."""
        self._operation = operation
        self._queue = queue
        self._began = time.time_ns()

    @contextmanager
    def found(self, receipt: Receipt) -> Iterator[None]:
        """Open the span of the operation, which has a link to the span that sent the message.

        It is a child of the caller's current span. Without one, it is a child of the span that sent the message.
        """
        if _trace is None:
            yield
            return
        links, context = [], None
        if receipt.traceparent is not None:
            sender = _span_context(receipt.traceparent)
            links = [_trace.Link(sender, {"enqueuedTime": int(receipt.enqueued_at.timestamp() * 1000)})]
            if not _trace.get_current_span().get_span_context().is_valid:
                context = _trace.set_span_in_context(_trace.NonRecordingSpan(sender))
        ids = receipt.message_id, receipt.correlation_id
        attributes = _attributes(self._operation, "receive", self._queue, *ids)
        attributes["messaging.servicebus.message.enqueued_time"] = int(receipt.enqueued_at.timestamp())
        span = _trace.get_tracer("flow_contracts").start_span(
            f"{self._operation} {self._queue}",
            context,
            _trace.SpanKind.CLIENT,
            attributes,
            links,
            self._began,
        )
        with _ending(span):
            yield


def _attributes(
    operation: str, kind: str, queue: str, message_id: str | None, correlation_id: str | None
) -> dict[str, str | int]:
    ids = (("messaging.message.id", message_id), ("messaging.message.conversation_id", correlation_id))
    return {
        "messaging.system": "servicebus",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "az.namespace": "Microsoft.ServiceBus",
        **{name: value for name, value in ids if value},
    }


def _span_context(text: str) -> Any:  # of the API, which may not be installed
    _, trace_id, span_id, flags = text.split("-")
    trace_flags = _trace.TraceFlags(int(flags, 16) & 3)
    return _trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace_flags)


@contextmanager
def _ending(span: Any) -> Iterator[None]:
    """End the span after the block, with the type of the error that ends it."""
    try:
        yield
    except BaseException as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(_trace.StatusCode.ERROR)
        raise
    finally:
        span.end()
