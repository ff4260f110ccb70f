"""Metrics are exported as the standard variables say, and their absence costs nothing and is explained."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import MagicMock

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as plain_families

from flow_worker.telemetry.exporters import chosen_exporters
from flow_worker.telemetry.histograms import Histogram
from flow_worker.telemetry.instruments import Timer
from flow_worker.telemetry.metrics import JOURNAL_DURATION
from flow_worker.telemetry.opening import open_telemetry
from tests.support.system import until

OPENMETRICS = "application/openmetrics-text"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SDK_DISABLED", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


# --- which exporters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["prometheus"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, ["prometheus", "otlp"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, ["prometheus", "otlp"]),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, ["otlp"]),
        ({"OTEL_METRICS_EXPORTER": " Prometheus, otlp,otlp "}, ["prometheus", "otlp"]),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
        ({"OTEL_METRICS_EXPORTER": ""}, ["prometheus"]),
        ({"OTEL_METRICS_EXPORTER": "prometheus,zipkin"}, ["prometheus"]),
    ],
)
def test_the_standard_variable_chooses_the_exporters(environment: dict[str, str], expected: list[str]) -> None:
    assert list(chosen_exporters(environment)) == expected


def test_an_unknown_exporter_costs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    chosen_exporters({"OTEL_METRICS_EXPORTER": "zipkin"})
    assert [record.__dict__["event"] for record in caplog.records] == ["telemetry.unknown_exporter"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", ""),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "often"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-5"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=,,x"),
    ],
)
async def test_a_variable_that_the_sdk_cannot_read_does_not_stop_the_worker(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    with collector(monkeypatch) as server:
        server.status = 200
        monkeypatch.setenv(variable, value)
        async with open_telemetry() as telemetry:
            page = await telemetry.page("")
    assert page.status == 200
    assert b"flow_worker_build_info" in page.body


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),  # the SDK raises for this one and the next
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-3"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "nobody's"),  # the API raises
        ("OTEL_PYTHON_METER_PROVIDER", "nobody's"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),  # the SDK ignores the rest in silence
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "zip"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "nan"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
        ("OTEL_PROPAGATORS", "b3"),
        ("OTEL_SDK_DISABLED", "yes"),
    ],
)
async def test_a_variable_that_the_worker_cannot_use_is_named_and_takes_its_default(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    with collector(monkeypatch) as server:
        server.status = 200
        monkeypatch.setenv(variable, value)
        async with open_telemetry() as telemetry:
            assert telemetry.tracer is not None
            assert telemetry.tracer.start_span("span").is_recording()
    assert _ignored(caplog) == [variable]


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
@pytest.mark.parametrize("value", ["Api-Key: s3cr3t", "s3cr3t", "a=b,s3cr3t", "=s3cr3t"])
async def test_a_header_that_the_exporter_cannot_read_is_not_quoted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str
) -> None:
    with collector(monkeypatch) as server:
        server.status = 200
        monkeypatch.setenv(name, value)
        async with open_telemetry():
            pass
    assert _ignored(caplog) == [name]
    assert "s3cr3t" not in caplog.text


@pytest.mark.parametrize(
    "environment",
    [
        {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a=b, x=%20y,", "OTEL_PROPAGATORS": "tracecontext,baggage"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "10"},  # smaller than the default of a batch
        {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4096"},  # larger than the default of the queue
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_SPAN_EVENT_COUNT_LIMIT": ""},
        {"OTEL_TRACES_SAMPLER": " ", "OTEL_TRACES_SAMPLER_ARG": "", "OTEL_PYTHON_TRACER_PROVIDER": ""},
    ],
)
async def test_a_right_variable_costs_no_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, environment: dict[str, str]
) -> None:
    for variable in ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_METRIC_EXPORT_INTERVAL"):
        monkeypatch.setenv(variable, "")  # as good as none; the end of the test restores them
    with collector(monkeypatch) as server:
        server.status = 200
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        async with open_telemetry():
            pass
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def _ignored(caplog: pytest.LogCaptureFixture) -> list[str]:
    events = [record.__dict__ for record in caplog.records if record.name.startswith("flow_worker")]
    assert not any(each.get("event") == "telemetry.exporter_failed" for each in events)
    return [each["fields"]["variable"] for each in events if each.get("event") == "telemetry.variable_ignored"]


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (f"{OPENMETRICS};version=1.0.0;q=0.6,{OPENMETRICS};version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3", True),
        (f"text/plain;q=0.9,{OPENMETRICS};q=0.2", False),
        (f"{OPENMETRICS};q=0", False),
        (f"{OPENMETRICS};q=0.1,*/*;q=0.9", False),
        (f"{OPENMETRICS};q=0.1,text/*;q=0.9", False),
        (f"{OPENMETRICS};q=0.9,*/*;q=0.1", True),
        (f"{OPENMETRICS.upper()},*/*", True),
        (f"{OPENMETRICS};q=inf,text/plain", False),
        ("application/*", True),
        ("application/json,;;,,q=", False),
        (f"{OPENMETRICS};q=much", False),
        (f"{OPENMETRICS};version=nine;escaping=\x00", True),
    ],
)
async def test_the_page_has_the_format_that_the_scraper_prefers(accept: str, is_openmetrics: bool) -> None:
    async with open_telemetry() as telemetry:
        page = await telemetry.page(accept)
    assert page.status == 200
    parse: Callable[[str], Iterable[Metric]] = openmetrics_families if is_openmetrics else plain_families
    names = {family.name for family in parse(page.body.decode())}
    assert "flow_worker_build_info" in names
    assert page.content_type.startswith(OPENMETRICS if is_openmetrics else "text/plain; version=0.0.4")
    assert page.body.endswith(b"# EOF\n") is is_openmetrics


@pytest.mark.parametrize(("variable", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_METRICS_EXPORTER", "none")])
async def test_a_page_that_is_turned_off_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    async with open_telemetry() as telemetry:
        page = await telemetry.page("")
    assert page.status == 404
    assert variable in page.body.decode()


async def test_without_the_packages_the_page_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("flow_worker.telemetry.exporters")
    monkeypatch.setitem(sys.modules, "flow_worker.telemetry.exporters", None)
    async with open_telemetry() as telemetry:
        page = await telemetry.page("")
        telemetry.metrics.journal_duration.record(0.1, "acquire", "")
    assert page.status == 501
    assert "pip install 'flow-worker[otel]'" in page.body.decode()


async def test_two_workers_of_one_process_have_pages_of_their_own() -> None:
    async with open_telemetry() as first, open_telemetry() as second:
        first.metrics.journal_duration.record(0.1, "acquire", "")
        assert b'operation="acquire"' in (await first.page("")).body
        assert b'operation="acquire"' not in (await second.page("")).body


# --- the worker's own histograms -------------------------------------------------------------------------------------


def _histogram(page: bytes, name: str) -> list[tuple[str, dict[str, str], float]]:
    [family] = [family for family in plain_families(page.decode()) if family.name == name]
    return [(sample.name, sample.labels, sample.value) for sample in family.samples]


async def test_the_worker_s_histograms_are_those_that_the_sdk_would_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's take ten times the processor time. They serve where a variable asks for what only they do."""
    pages = []
    for value in ("", "trace_based"):
        monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", value)
        async with open_telemetry() as telemetry:
            timer = telemetry.metrics.process_duration
            for seconds in (-1.0, 0.005, 0.0051, 0.3, 130, 400):
                timer.record(seconds, "process", "servicebus", "q", "host", "")
            timer.record(0.3, "process", "servicebus", "q", "host", "abandoned")
            pages.append(_histogram((await telemetry.page("")).body, "messaging_process_duration_seconds"))
    own, of_sdk = pages
    assert own == of_sdk
    assert ("messaging_process_duration_seconds_count", 6.0) in [(name, value) for name, _, value in own]


async def test_a_histogram_that_has_begun_exports_zeros_until_its_first_value() -> None:
    """The rate of a histogram that appears with its first value is nothing, and its quantile no number."""
    histograms: list[Histogram] = []
    family = JOURNAL_DURATION.name.replace(".", "_") + "_seconds"
    name = f"{family}_count"
    async with open_telemetry() as telemetry:
        timer = telemetry.metrics.journal_duration
        timer.begin("acquire", "journal_unavailable")
        timer.begin("acquire", "journal_unavailable")
        labels = {"operation": "acquire", "error_type": "journal_unavailable"}
        assert (name, labels, 0.0) in _histogram((await telemetry.page("")).body, family)
        timer.record(0.5, "acquire", "journal_unavailable")
        timer.begin("acquire", "journal_unavailable")
        assert (name, labels, 1.0) in _histogram((await telemetry.page("")).body, family)
    own = Timer(JOURNAL_DURATION, MagicMock(), histograms)
    own.begin("acquire", "")
    [[snapshot]] = [one.snapshots() for one in histograms]
    assert (sum(snapshot.counts), snapshot.least, snapshot.greatest) == (0, 0.0, 0.0)  # no infinity in JSON


@pytest.mark.parametrize("temporality", ["", "delta"])
async def test_the_collector_gets_histograms_of_the_temporality_that_it_wants(
    monkeypatch: pytest.MonkeyPatch, temporality: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", temporality)
    with collector(monkeypatch) as server:
        server.status = 200
        async with open_telemetry() as telemetry:
            telemetry.metrics.request_duration.record(0.2, "f", "succeeded")
            telemetry.metrics.request_duration.record(4.0, "f", "succeeded")
    [exported] = server.received[-1].resource_metrics
    [scope] = exported.scope_metrics
    assert scope.scope.name == "flow_worker"
    [metric] = [metric for metric in scope.metrics if metric.name == "flow_worker.request.duration"]
    [point] = metric.histogram.data_points
    assert (point.count, point.sum, point.min, point.max, sum(point.bucket_counts)) == (2, 4.2, 0.2, 4.0, 2)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert point.start_time_unix_nano < point.time_unix_nano
    assert metric.histogram.aggregation_temporality == (1 if temporality else 2)


# --- a dead collector ------------------------------------------------------------------------------------------------


@contextmanager
def silent_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point the variables at a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://user:canary@127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        yield


async def test_a_collector_that_never_answers_costs_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    with silent_collector(monkeypatch):
        async with open_telemetry():
            await until(lambda: bool(caplog.records))
            await asyncio.sleep(0.5)
    assert [record.__dict__["event"] for record in caplog.records] == ["telemetry.export_failing"]
    assert "canary" not in caplog.text


async def test_a_stop_waits_only_a_moment_for_a_collector_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_collector(monkeypatch):
        async with open_telemetry():
            began = time.monotonic()
    assert time.monotonic() - began < 3.0


# --- a collector -----------------------------------------------------------------------------------------------------


class Collector(ThreadingHTTPServer):
    """Receives OTLP over HTTP, and answers each request with `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.status = 503
        self.received: list[ExportMetricsServiceRequest] = []


class _Answer(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.status == 200 and self.path == "/v1/metrics":
            self.server.received.append(ExportMetricsServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Write nothing."""


@contextmanager
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "orders")
        try:
            yield server
        finally:
            server.shutdown()
            serving.join()


async def test_the_last_values_reach_the_collector_before_the_worker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector(monkeypatch) as server:
        server.status = 200
        async with open_telemetry() as telemetry:
            telemetry.metrics.journal_duration.record(0.2, "acquire", "")
            telemetry.metrics.locks_lost.add("flow-requests")
    [request] = server.received
    [exported] = request.resource_metrics
    resource = {one.key: one.value.string_value for one in exported.resource.attributes}
    assert resource["service.name"] == "orders"
    assert resource["service.instance.id"]
    metrics = {metric.name: metric for scope in exported.scope_metrics for metric in scope.metrics}
    [point] = metrics["flow_worker.journal.operation.duration"].histogram.data_points
    assert (point.count, point.sum) == (1, 0.2)
    lost = metrics["flow_worker.locks.lost"]
    assert (lost.unit, lost.sum.is_monotonic, lost.sum.data_points[0].as_int) == ("{lock}", True, 1)
    assert metrics["flow_worker.build.info"].gauge.data_points[0].as_int == 1


async def test_a_collector_that_recovers_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flow_worker.telemetry.otlp")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    with collector(monkeypatch) as server:
        async with open_telemetry():
            await until(lambda: bool(caplog.records))
            server.status = 200
            await until(lambda: len(caplog.records) > 1)
    assert [record.__dict__["event"] for record in caplog.records] == [
        "telemetry.export_failing",
        "telemetry.export_recovered",
    ]
