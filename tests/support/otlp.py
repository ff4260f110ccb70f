"""A collector that receives spans and metrics by OTLP over HTTP, and the traces that it received."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Proto

Values = Mapping[str, str | int | bool]


@dataclass(frozen=True)
class Received:
    """One span, with its IDs in hexadecimal."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    links: list[tuple[str, Values]]
    """The ID of the span that each link names, and the link's attributes."""
    attributes: Values
    events: list[tuple[str, Values]]
    is_error: bool
    description: str
    """Of the status."""
    ended: int

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


class Collector(ThreadingHTTPServer):
    """Receives OTLP over HTTP, and keeps it all."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.raw: list[bytes] = []
        self.spans: list[Received] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def trace(self, trace_id: str) -> list[Received]:
        """Return the spans of a trace in the order of their ends."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.ended)


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.raw.append(body)
        if self.path == "/v1/traces":
            request = ExportTraceServiceRequest.FromString(body)
            scopes = (scope for resource in request.resource_spans for scope in resource.scope_spans)
            self.server.spans.extend(_received(span) for scope in scopes for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Write nothing."""


def _received(span: Proto) -> Received:
    return Received(
        name=span.name,
        kind=Proto.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=[(link.span_id.hex(), _values(link.attributes)) for link in span.links],
        attributes=_values(span.attributes),
        events=[(event.name, _values(event.attributes)) for event in span.events],
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        description=span.status.message,
        ended=span.end_time_unix_nano,
    )


def _values(attributes: Iterable[KeyValue]) -> Values:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value") for one in attributes}


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Run a collector until the block ends."""
    with Collector() as collector:
        serving = threading.Thread(target=collector.serve_forever)
        serving.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            serving.join()
