"""Creates the spans of the worker, and carries the trace context from message to message.

Without an SDK there is no span. The trace context of the sender then passes on unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry.context import Context, attach
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.trace_context import TRACEPARENT, read_traceparent, traceparent
from flow_worker.flows.known_codes import bounded_code
from flow_worker.instrumentation.bounds import Bounds
from flow_worker.pipeline.outcome import Continue, Outcome, reply_of
from flow_worker.settings import Settings
from flow_worker.telemetry import conventions as names

_ROOT = Context()
_MAX_ID_CHARACTERS = 128
_FAILED = frozenset({"failed", "unknown"})
"""The results that are the worker's or the flow's failure. The others are the sender's."""

Attributes = dict[str, str | int | bool]


class Spans:
    """Creates spans by the semantic conventions for messaging and HTTP. A method returns None where no span is.

    Attributes have bounded values, apart from the IDs of messages. No span has an exception, because its text may quote
    a flow or a sender.
    """

    def __init__(self, tracer: Tracer | None, settings: Settings, bounds: Bounds) -> None:
        """`tracer` is None without an SDK."""
        self._tracer = tracer
        self._bounds = bounds
        own = settings.continuations.queue
        self._links_only = {queue.name for queue in settings.request_queues} - {own}
        if settings.telemetry.parent == "message":
            self._links_only = set()
        self._fixed: dict[tuple[str, str, str], Attributes] = {}
        self._batch: dict[str, Span] = {}
        """The spans of deliveries that wait in a batch, by correlation ID: none of them is the current span."""

    # --- processing ------------------------------------------------------------------------------------------------

    def begin(self, queue: str, message: ReceivedMessage) -> Span | None:
        """Return the span of the processing of a delivery, which the caller ends."""
        if self._tracer is None:
            text = read_traceparent(message)
            return None if text is None else _OfSender(text)
        creation = _context_of(message)
        attributes = self._messaging("process", "process", queue) | _of_message(message)
        attributes[names.DELIVERY_COUNT] = message.delivery_count + 1
        attributes[names.ENQUEUED_TIME] = int(message.enqueued_at.timestamp())
        enqueued = {names.LINK_ENQUEUED_TIME: int(message.enqueued_at.timestamp() * 1000)}
        links = [] if creation is None else [Link(creation, enqueued)]
        parent = _ROOT if creation is None or queue in self._links_only else _below(NonRecordingSpan(creation))
        return self._tracer.start_span(f"process {queue}", parent, SpanKind.CONSUMER, attributes, links)

    def follow(self, queue: str, message: ReceivedMessage) -> None:
        """Make the message's own trace context the current one, without a span."""
        creation = _context_of(message)
        enter(None if creation is None or (self._tracer and queue in self._links_only) else NonRecordingSpan(creation))

    def wait(self, message: ReceivedMessage, span: Span | None) -> None:
        """Remember the span of a delivery that waits in a batch."""
        if span is not None:
            self._batch[message.correlation_id or message.message_id or ""] = span

    def forget(self, message: ReceivedMessage, span: Span | None) -> None:
        """Forget the span of a delivery in a batch."""
        key = message.correlation_id or message.message_id or ""
        if span is not None and self._batch.get(key) is span:
            del self._batch[key]

    def settle(
        self, operation: str, queue: str, processing: Iterable[Span | None], messages: Sequence[Message]
    ) -> Span | None:
        """Return the span of the settlement of a delivery, or of several, below or linked to their processing."""
        if self._tracer is None:
            return None
        count = len(messages)
        if count == 1 and any(_is_dropped(span) for span in processing):
            return None
        spans = [span for span in processing if span is not None]
        attributes = self._messaging(operation, "settle", queue) | {names.DISPOSITION: operation}
        if count == 1:
            attributes |= _of_message(messages[0])
            parent = _below(spans[0]) if spans else _ROOT
            return self._tracer.start_span(f"{operation} {queue}", parent, SpanKind.CLIENT, attributes)
        attributes[names.BATCH_COUNT] = count
        links = [Link(span.get_span_context()) for span in spans]
        return self._tracer.start_span(f"{operation} {queue}", _ROOT, SpanKind.CLIENT, attributes, links)

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, operation: str, queue: str, message: Message) -> tuple[Span | None, Message]:
        """Return the span of the send operation, and the message with the span's trace context.

        A message that is passed on keeps the context that it has.
        """
        parent = self._parent_of(message)
        has_context = TRACEPARENT in message.application_properties
        if isinstance(parent, _OfSender):
            return None, message if has_context else message.with_property(TRACEPARENT, parent.text)
        if self._tracer is None or _is_dropped(parent):
            context = parent.get_span_context()
            return None, message if has_context or not context.is_valid else _injected(message, context)
        attributes = self._messaging(operation, "send", queue) | _of_message(message)
        kind = SpanKind.CLIENT if has_context else SpanKind.PRODUCER
        span = self._tracer.start_span(f"{operation} {queue}", _below(parent), kind, attributes)
        return span, message if has_context else _injected(message, span.get_span_context())

    def send_all(self, operation: str, queue: str, messages: Sequence[Message]) -> tuple[Span | None, list[Message]]:
        """Do the same with a batch. Each message continues the trace of its own processing, with a span `create`.

        One send operation cannot be in several traces, so it has links to the spans of its messages.
        """
        created = [self._create(queue, message) for message in messages]
        if self._tracer is None:
            return None, created
        attributes = self._messaging(operation, "send", queue) | {names.BATCH_COUNT: len(messages)}
        links = [Link(context) for message in created if (context := _context_of(message)) is not None]
        return self._tracer.start_span(f"{operation} {queue}", _ROOT, SpanKind.CLIENT, attributes, links), created

    def _create(self, queue: str, message: Message) -> Message:
        if TRACEPARENT in message.application_properties:
            return message
        parent = self._parent_of(message)
        context = parent.get_span_context()
        if self._tracer is not None and not _is_dropped(parent):
            attributes = self._messaging("create", "create", queue) | _of_message(message)
            span = self._tracer.start_span(f"create {queue}", _below(parent), SpanKind.PRODUCER, attributes)
            span.end()
            context = span.get_span_context()
        return _injected(message, context) if context.is_valid else message

    def _parent_of(self, message: Message) -> Span:
        current = get_current_span()
        if current is INVALID_SPAN and self._batch:
            return self._batch.get(message.correlation_id or "", INVALID_SPAN)
        return current

    # --- calls -----------------------------------------------------------------------------------------------------

    def traceparent(self, span: Span | None, sender: str | None) -> str | None:
        """Return the trace context for a flow: that of the call's span, of the processing, or the sender's own."""
        if self._tracer is None:
            return sender
        context = (span or get_current_span()).get_span_context()
        return _text(context) if context.is_valid else sender

    def call(self, method: str, flow: str, url: str) -> Span | None:
        """Return the span of an HTTP request. It has no URL, because the URL of a flow counts as a secret."""
        if self._tracer is None or _is_dropped(get_current_span()):
            return None
        flow, (address, port) = self._bounds.flow(flow), self._bounds.server(url)
        attributes: Attributes = {names.METHOD: method, names.SERVER_ADDRESS: address, names.FLOW: flow}
        if port != "":
            attributes[names.SERVER_PORT] = port
        return self._tracer.start_span(f"{method} {flow}", None, SpanKind.CLIENT, attributes)

    # --- decisions and results -------------------------------------------------------------------------------------

    def decided(self, authority: str, code: str, *, is_proven: bool) -> None:
        """Add the decision about a sender to the current span."""
        if self._tracer is None:
            return
        span = get_current_span()
        if span.is_recording():
            attributes = {names.AUTHORITY: authority} | ({names.CODE: code} if code else {})
            span.add_event(names.AUTHORIZE if is_proven else names.AUTHENTICATE, attributes)

    def sent(self, outcome: Outcome) -> None:
        """Add an outcome to the span of its processing."""
        if self._tracer is None:
            return
        reply = reply_of(outcome)
        if reply is not None:
            result = reply.result
            code = result.error.code if result.error else None
            self._conclude(reply.address.correlation_id, result.flow, result.status.value, code)
        elif isinstance(outcome, Continue):
            job = outcome.continuation
            self._conclude(job.correlation_id, job.flow, "waiting", job.code)

    def _conclude(self, correlation_id: str, flow: str | None, status: str, code: str | None) -> None:
        span = get_current_span()
        if span is INVALID_SPAN:
            span = self._batch.get(correlation_id, INVALID_SPAN)
        if not span.is_recording():
            return
        attributes = {names.FLOW: self._bounds.flow(flow), names.STATUS: status}
        if correlation_id:  # a message of Dataverse has it in its body
            attributes[names.CONVERSATION_ID] = correlation_id[:_MAX_ID_CHARACTERS]
        if code:
            attributes[names.CODE] = bounded_code(code)
        span.set_attributes(attributes)
        if status in _FAILED:
            span.set_status(StatusCode.ERROR)

    # --- attributes ------------------------------------------------------------------------------------------------

    def _messaging(self, operation: str, kind: str, queue: str) -> Attributes:
        key = operation, kind, queue
        fixed = self._fixed.get(key)
        if fixed is None:
            fixed = self._fixed[key] = {
                names.SYSTEM: names.SERVICE_BUS,
                names.OPERATION_NAME: operation,
                names.OPERATION_TYPE: kind,
                names.DESTINATION: queue,
                names.SERVER_ADDRESS: self._bounds.namespace,
                names.SERVER_PORT: self._bounds.namespace_port,
                names.NAMESPACE: names.SERVICE_BUS_NAMESPACE,
            }
        return dict(fixed)


class _OfSender(NonRecordingSpan):
    """A sender's span, of a worker without an SDK. Only a log line needs its IDs, so it parses them late."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_span_context(self) -> SpanContext:
        return _parsed(self.text)


def enter(span: Span | None) -> None:
    """Make a span the current one of this task; None: no span."""
    attach(_ROOT if span is None else _below(span))


def end(span: Span | None, failure: str = "", status: int | str = "") -> None:
    """End a span, with the type of the failure and the HTTP status, if any."""
    if span is None or not span.is_recording():
        return
    if status != "":
        span.set_attribute(names.STATUS_CODE, status)
    if failure:
        span.set_attribute(names.ERROR_TYPE, failure)
        span.set_status(StatusCode.ERROR)
    span.end()


def _is_dropped(span: Span | None) -> bool:
    """Return whether the sampler dropped a span of this worker. Its children would be dropped, too, at some cost."""
    if span is None or span is INVALID_SPAN or span.is_recording():
        return False
    context = span.get_span_context()
    return not context.is_remote and not context.trace_flags.sampled


def _below(span: Span) -> Context:
    return set_span_in_context(span, _ROOT)


def _context_of(message: Message) -> SpanContext | None:
    """Return the trace context of a message. `tracestate` is left out: it is a text of the sender."""
    text = read_traceparent(message)
    return None if text is None else _parsed(text)


def _parsed(text: str) -> SpanContext:
    _, trace_id, span_id, flags = text.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16) & 3))


def _injected(message: Message, context: SpanContext) -> Message:
    return message.with_property(TRACEPARENT, _text(context))


def _text(context: SpanContext) -> str:
    return traceparent(context.trace_id, context.span_id, context.trace_flags)


def _of_message(message: Message) -> dict[str, Any]:
    ids = ((names.MESSAGE_ID, message.message_id), (names.CONVERSATION_ID, message.correlation_id))
    return {name: value[:_MAX_ID_CHARACTERS] for name, value in ids if value}
