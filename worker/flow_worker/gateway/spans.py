"""The gateway's spans: one for each HTTP request, and one for each message that it sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flow_contracts.message import Message
from flow_contracts.trace_context import TRACEPARENT, traceparent
from flow_worker.telemetry import conventions as names

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


class Spans:
    """Makes spans, unless no SDK takes them: then the caller's own trace context travels on."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    @asynccontextmanager
    async def sending(self, queue: str, message: Message) -> AsyncIterator[Message]:
        """Open the span of a send operation. Yield the message, which continues its trace."""
        if self._tracer is None:
            yield message
            return
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        sender = message.application_properties.get(TRACEPARENT)
        parent = TraceContextTextMapPropagator().extract({TRACEPARENT: str(sender)}) if sender else None
        attributes = {
            names.SYSTEM: names.SERVICE_BUS,
            names.OPERATION_NAME: "send",
            names.OPERATION_TYPE: "send",
            names.DESTINATION: queue,
            names.MESSAGE_ID: message.message_id or "",
            names.NAMESPACE: names.SERVICE_BUS_NAMESPACE,
        }
        span = self._tracer.start_span(f"send {queue}", parent, SpanKind.PRODUCER, attributes)
        context = span.get_span_context()
        if context.is_valid:
            text = traceparent(context.trace_id, context.span_id, context.trace_flags)
            message = message.with_property(TRACEPARENT, text)
        try:
            yield message
        except BaseException as error:
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()
