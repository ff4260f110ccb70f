"""The spans and the metrics of HTTP requests: named by routes, in the trace of the caller, with bounded values."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import product

import httpx
import pytest
import pytest_asyncio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler

from flow_contracts.servicebus import ServiceBusUnavailable
from flow_contracts.trace_context import read_traceparent
from flow_worker.gateway.problems import KINDS
from flow_worker.telemetry.metrics import Metrics
from tests.support.http_gateway import HttpGateway, running_http_gateway
from tests.support.system import until

START = "/v1/flows/create-quote/requests"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@dataclass
class Observed:
    """A running gateway, and what it exports."""

    gateway: HttpGateway
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    def spans(self) -> list[ReadableSpan]:
        """Return the spans since the last call."""
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return found

    async def server(self) -> ReadableSpan:
        """Return the span of the one HTTP request since the last call."""
        await until(lambda: any(one.kind.name == "SERVER" for one in self.exporter.get_finished_spans()))
        [span] = [one for one in self.spans() if one.kind.name == "SERVER"]
        return span

    def points(self, name: str) -> list[NumberDataPoint | HistogramDataPoint]:
        data = self.reader.get_metrics_data()
        assert data is not None
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        metrics = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
        points = [point for metric in metrics for point in metric.data.data_points]
        assert all(isinstance(point, NumberDataPoint | HistogramDataPoint) for point in points)
        return [point for point in points if isinstance(point, NumberDataPoint | HistogramDataPoint)]

    def labels(self, name: str, label: str) -> set[object]:
        return {(point.attributes or {}).get(label, "") for point in self.points(name)}


@pytest_asyncio.fixture
async def observed(request: pytest.FixtureRequest) -> AsyncIterator[Observed]:
    sampler: Sampler | None = getattr(request, "param", None)
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("test")
    async with running_http_gateway(metrics=Metrics(meter), tracer=provider.get_tracer("test")) as gateway:
        yield Observed(gateway, exporter, reader)


def parent(span: ReadableSpan) -> str:
    return "" if span.parent is None else f"{span.parent.trace_id:032x}-{span.parent.span_id:016x}"


def own(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}-{span.context.span_id:016x}"


async def test_a_submission_is_one_trace_from_the_caller_to_the_message(observed: Observed) -> None:
    async with observed.gateway.client(traceparent=PARENT) as ada:
        answer = await ada.post(START, json={}, params={"wait": "0", "code": "secret"})
    assert answer.status_code == 202
    await until(lambda: len(observed.exporter.get_finished_spans()) == 2)
    send, server = observed.spans()
    assert (server.name, server.kind.name) == ("POST /v1/flows/{flow}/requests", "SERVER")
    assert parent(server) == f"{TRACE}-b7ad6b7169203331"
    assert (send.kind.name, parent(send)) == ("PRODUCER", own(server))
    assert (read_traceparent(observed.gateway.queue.messages[0]) or "").startswith(f"00-{own(send)}-")
    assert server.status.is_unset
    host, port = observed.gateway.server.address
    assert dict(server.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/flows/{flow}/requests",
        "http.response.status_code": 202,
        "url.scheme": "http",
        "url.path": START,
        "network.protocol.version": "1.1",
        "server.address": host,
        "server.port": port,
        "flow_worker.flow": "create-quote",
        "messaging.message.conversation_id": answer.json()["id"],
    }
    attributes = dict(send.attributes or {})
    assert (attributes["server.address"], attributes["server.port"]) == ("bus.example", 5671)
    assert attributes["messaging.message.conversation_id"] == answer.json()["id"]


async def test_a_read_names_its_request_and_links_to_the_trace_of_it(observed: Observed) -> None:
    async with observed.gateway.client() as ada:
        request_id = (await ada.post(START, json={})).json()["id"]
        submitted = await observed.server()
        await observed.gateway.finish(request_id)
        assert (await ada.get(f"/v1/requests/{request_id}")).status_code == 200
        read = await observed.server()
        assert (await ada.get(f"/v1/requests/{request_id}/events")).status_code == 200
        streamed = await observed.server()
    assert read.name == "GET /v1/requests/{id}"
    for span in (read, streamed):
        assert parent(span) == ""
        assert [f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links] == [own(submitted)]
        assert (span.attributes or {})["messaging.message.conversation_id"] == request_id


@pytest.mark.parametrize(
    ("path", "name", "status", "code"),
    [
        ("/v1/requests/" + "0" * 32, "GET /v1/requests/{id}", 404, "not_found"),
        ("/v1/requests/canary?canary=canary", "GET /v1/requests/{id}", 404, "not_found"),
        ("/v1/flows/canary", "GET /v1/flows/{flow}", 404, "not_found"),
        ("/canary/canary", "GET", 404, "not_found"),
        ("/v1/flows/create-quote/requests", "GET", 405, "method_not_allowed"),
    ],
)
async def test_a_refusal_is_no_fault_and_holds_no_text_of_the_caller(
    observed: Observed, path: str, name: str, status: int, code: str
) -> None:
    async with observed.gateway.client(baggage="canary=canary", tracestate="canary=canary") as ada:
        assert (await ada.get(path)).status_code == status
    span = await observed.server()
    attributes = dict(span.attributes or {})
    assert (span.name, attributes["http.response.status_code"], attributes["flow_worker.code"]) == (name, status, code)
    assert span.status.is_unset
    assert "error.type" not in attributes
    assert "canary" not in span.to_json()
    assert ("url.path" in attributes) == (path == "/v1/requests/" + "0" * 32)


async def test_an_outage_and_a_fault_are_errors_without_their_texts(observed: Observed) -> None:
    observed.gateway.queue.failure = ServiceBusUnavailable("canary")
    async with observed.gateway.client() as ada, observed.gateway.client("boom") as boom:
        assert (await ada.post(START, json={})).status_code == 503
        await until(lambda: len(observed.exporter.get_finished_spans()) == 2)
        send, server = observed.spans()
        assert (await boom.post(START, json={})).status_code == 500
    faulty = await observed.server()
    assert [(span.attributes or {})["error.type"] for span in (send, server, faulty)] == [
        "ServiceBusUnavailable",
        "503",
        "500",
    ]
    for span in (send, server, faulty):
        assert (span.status.status_code.name, span.status.description, span.events) == ("ERROR", None, ())
    assert observed.labels("flow_worker.gateway.problems", "code") == {"unavailable", "internal_error"}
    assert observed.labels("http.server.request.duration", "error.type") == {"503", "500"}


async def test_a_caller_that_goes_away_ends_its_span_without_a_status(observed: Observed) -> None:
    async with observed.gateway.client() as ada:
        request_id = (await ada.post(START, json={})).json()["id"]
        await observed.server()
        with pytest.raises(httpx.ReadTimeout):
            await ada.get(f"/v1/requests/{request_id}", params={"wait": "20"}, timeout=0.2)
    span = await observed.server()
    assert span.status.is_unset
    assert "http.response.status_code" not in (span.attributes or {})
    assert "client_disconnected" in observed.labels("http.server.request.duration", "error.type")


@pytest.mark.parametrize("observed", [ParentBased(ALWAYS_OFF)], indirect=True)
async def test_the_message_of_a_request_that_is_not_sampled_says_so(observed: Observed) -> None:
    async with observed.gateway.client() as ada:
        assert (await ada.post(START, json={})).status_code == 202
    assert observed.spans() == []
    found = read_traceparent(observed.gateway.queue.messages[0])
    assert found is not None
    assert int(found[-2:], 16) & 1 == 0


async def test_without_an_sdk_the_caller_s_trace_context_travels_on() -> None:
    async with running_http_gateway() as gateway, gateway.client() as ada:
        await ada.post(START, json={}, headers={"traceparent": PARENT})
        await ada.post(START, json={})
        await ada.post(START, json={}, headers={"traceparent": "canary"})
    assert [read_traceparent(message) for message in gateway.queue.messages] == [PARENT, None, None]


async def test_hostile_names_make_no_values_of_labels(observed: Observed) -> None:
    """The routes, methods, flows, IDs and keys that callers invent are few values, and so are the spans' names."""
    forms: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("GET", "/{}", {}),
        ("GET", "/v1/requests/{}", {}),
        ("POST", "/v1/flows/{}/requests", {}),
        ("PROPFIND", "/{}", {}),
        ("X{}", "/v1/flows", {}),
        ("POST", START, {"Idempotency-Key": "{}", "traceparent": "{}", "Origin": "https://{}"}),
    )
    names = [secrets.token_hex(8) for _ in range(10)]
    async with observed.gateway.client() as ada:
        for name, (method, path, headers) in product(names, forms):
            given = {key: value.format(name) for key, value in headers.items()}
            await ada.request(method.format(name), path.format(name), json={}, headers=given)
    spans = observed.spans()
    assert {span.name for span in spans} == {
        *("GET", "HTTP", "GET /v1/requests/{id}", "POST /v1/flows/{flow}/requests", "send flow-requests-gateway")
    }
    values = {
        str(value)
        for name in ("http.server.request.duration", "flow_worker.gateway.problems")
        for point in observed.points(name)
        for value in (point.attributes or {}).values()
    }
    routes = {"/v1/requests/{id}", "/v1/flows/{flow}/requests"}
    assert values <= {"GET", "POST", "_OTHER", "200", "202", "403", "404", "405", "429"} | routes | set(KINDS)
    assert not any(name in span.to_json() for span in spans for name in names)
    assert "malformed_request" in values  # no HTTP: such a method is counted, too
