"""The gateway's spans: for each HTTP request, for each message that it sends, and for each one that it receives.

No attribute has a text of a caller, apart from the IDs of requests. No span has an exception: its text may quote one.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from aiohttp import web
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
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
from flow_worker.access.gateway_message_ids import request_id_of
from flow_worker.gateway import headers
from flow_worker.gateway.problems import bounded_problem
from flow_worker.telemetry import conventions as names
from flow_worker.telemetry.metrics import OTHER, bounded_method

_ROOT: Final = Context()
_ID: Final = re.compile(r"(?:fw-gateway-[0-9a-f]{8}-)?[0-9a-f]{32,40}")
"""Of a request, as `Submissions` makes it. Another one is a text of the caller."""
_MAX_ID_CHARACTERS: Final = 128

Attributes = dict[str, str | int | bool]


class Server(NamedTuple):
    """A host and its port."""

    address: str
    port: int


_NOWHERE: Final = Server("", 0)


@dataclass(frozen=True, slots=True)
class Bounded:
    """What attributes may name."""

    flows: Collection[str] = ()
    bus: Server = _NOWHERE
    """Service Bus."""
    public_url: str | None = None
    """The gateway's URL as its callers write it."""


class Spans:
    """Makes spans, unless no SDK takes them: then the caller's own trace context travels on."""

    def __init__(self, tracer: Tracer | None, bounded: Bounded | None = None, *, links_only: bool = False) -> None:
        """`links_only`: a request begins a trace of its own, with a link to its caller's (`telemetry.parent`)."""
        self._tracer = tracer
        self._bounded = bounded or Bounded()
        self._links_only = links_only

    # --- HTTP ------------------------------------------------------------------------------------------------------

    @contextmanager
    def serving(self, request: web.Request, route: str) -> Iterator[Span | None]:
        """Open the span of an HTTP request, and make it the current one. `route`: the template of its path, or ""."""
        caller = headers.traceparent(request)
        if self._tracer is None and caller is None:
            yield None
            return
        context = None if caller is None else _parsed(caller)
        span = self._server_span(request, route, context)
        shown = span or NonRecordingSpan(context or SpanContext(0, 0, is_remote=True))
        token = attach(set_span_in_context(shown, _ROOT))
        try:
            yield span
        finally:
            detach(token)
            if span is not None:
                span.end()

    def _server_span(self, request: web.Request, route: str, caller: SpanContext | None) -> Span | None:
        if self._tracer is None:
            return None
        method = bounded_method(request.method)
        shown = "HTTP" if method == OTHER else method  # by the conventions
        links = [Link(caller)] if caller is not None and self._links_only else []
        parent = _ROOT if caller is None or self._links_only else set_span_in_context(NonRecordingSpan(caller), _ROOT)
        attributes = self._of_request(request, method, route)
        return self._tracer.start_span(f"{shown} {route}".rstrip(), parent, SpanKind.SERVER, attributes, links)

    def _of_request(self, request: web.Request, method: str, route: str) -> Attributes:
        attributes: Attributes = {names.METHOD: method, names.URL_SCHEME: request.scheme}
        if request.version.major == 1:
            attributes[names.PROTOCOL_VERSION] = f"1.{min(request.version.minor, 1)}"
        if (server := self._server(request)) is not None:
            attributes |= {names.SERVER_ADDRESS: server.address, names.SERVER_PORT: server.port}
        if not route:
            return attributes
        attributes[names.ROUTE] = route
        flow, request_id = request.match_info.get("flow"), request.match_info.get("id")
        is_known_flow, is_known_id = flow in self._bounded.flows, _ID.fullmatch(request_id or "") is not None
        if flow is not None:
            attributes[names.FLOW] = flow if is_known_flow else OTHER
        if request_id is not None and is_known_id:
            attributes[names.CONVERSATION_ID] = request_id_of(request_id)
        if (flow is None or is_known_flow) and (request_id is None or is_known_id):
            attributes[names.URL_PATH] = route.format_map(request.match_info)  # another path has a caller's text
        return attributes

    def _server(self, request: web.Request) -> Server | None:
        """Return the gateway's address. The header `Host` is a text of the caller."""
        if self._bounded.public_url is not None:
            parts = urlsplit(self._bounded.public_url)
            return Server(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        address = None if request.transport is None else request.transport.get_extra_info("sockname")
        return Server(*address[:2]) if address else None

    # --- Service Bus -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def sending(self, queue: str, message: Message) -> AsyncIterator[Message]:
        """Open the span of a send operation. Yield the message, which continues its trace."""
        if self._tracer is None:
            yield message
            return
        span = self._tracer.start_span(f"send {queue}", _parent(message), SpanKind.PRODUCER, self._of("send", queue))
        span.set_attributes(_of_message(message))
        context = span.get_span_context()
        if context.is_valid:
            message = message.with_property(TRACEPARENT, _text(context))
        with _ended(span):
            yield message

    @contextmanager
    def processing(self, queue: str, message: ReceivedMessage) -> Iterator[None]:
        """Open the span of the processing of a message, as a child of the span that sent it, and linked to that one."""
        text = None if self._tracer is None else read_traceparent(message)
        if self._tracer is None or text is None:
            yield
            return
        sender = _parsed(text)
        parent = set_span_in_context(NonRecordingSpan(sender), _ROOT)
        links = [Link(sender, {names.LINK_ENQUEUED_TIME: int(message.enqueued_at.timestamp() * 1000)})]
        attributes = self._of("process", queue) | _of_message(message)
        attributes[names.DELIVERY_COUNT] = message.delivery_count + 1
        attributes[names.ENQUEUED_TIME] = int(message.enqueued_at.timestamp())
        span = self._tracer.start_span(f"process {queue}", parent, SpanKind.CONSUMER, attributes, links)
        token = attach(set_span_in_context(span, _ROOT))
        try:
            with _ended(span):
                yield
        finally:
            detach(token)

    def _of(self, operation: str, queue: str) -> Attributes:
        return {
            names.SYSTEM: names.SERVICE_BUS,
            names.OPERATION_NAME: operation,
            names.OPERATION_TYPE: operation,
            names.DESTINATION: queue,
            names.SERVER_ADDRESS: self._bounded.bus.address,
            names.SERVER_PORT: self._bounded.bus.port,
            names.NAMESPACE: names.SERVICE_BUS_NAMESPACE,
        }


def name_problem(name: str) -> None:
    """Add the code of a problem to the span of its HTTP request."""
    if (span := get_current_span()).is_recording():
        span.set_attribute(names.CODE, bounded_problem(name))


def end_request(span: Span | None, status: int) -> None:
    """Add how an HTTP request ended. Status 0: its caller has gone. Only a 5xx is a failure of the gateway."""
    if span is None or not span.is_recording():
        return
    if status:
        span.set_attribute(names.STATUS_CODE, status)
    if status >= 500:
        span.set_attribute(names.ERROR_TYPE, str(status))
        span.set_status(StatusCode.ERROR)


def current_traceparent(caller: str | None) -> str | None:
    """Return the trace context of the current span; the caller's own without one."""
    context = get_current_span().get_span_context()
    return _text(context) if context.is_valid else caller


def name_request(request_id: str, trace_parent: str | None) -> None:
    """Let the span of an HTTP request name the request that it is about, and link to the trace of that one."""
    span = get_current_span()
    if not span.is_recording():
        return
    span.set_attribute(names.CONVERSATION_ID, request_id)
    if trace_parent is not None and (context := _parsed(trace_parent)).trace_id != span.get_span_context().trace_id:
        span.add_link(context)


@contextmanager
def _ended(span: Span) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        span.set_attribute(names.ERROR_TYPE, type(error).__name__)
        span.set_status(StatusCode.ERROR)
        raise
    finally:
        span.end()


def _parent(message: Message) -> Context:
    current = get_current_span()
    if current.get_span_context().is_valid:
        return set_span_in_context(current, _ROOT)
    sender = message.application_properties.get(TRACEPARENT)
    return _ROOT if sender is None else set_span_in_context(NonRecordingSpan(_parsed(str(sender))), _ROOT)


def _of_message(message: Message) -> Attributes:
    ids = ((names.MESSAGE_ID, message.message_id), (names.CONVERSATION_ID, message.correlation_id))
    return {name: value[:_MAX_ID_CHARACTERS] for name, value in ids if value}


def _parsed(text: str) -> SpanContext:
    _, trace_id, span_id, flags = text.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16) & 3))


def _text(context: SpanContext) -> str:
    return traceparent(context.trace_id, context.span_id, context.trace_flags)
