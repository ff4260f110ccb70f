"""The exporters of metrics and spans, over OpenTelemetry's SDK. Import it only if the extra `otel` is installed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from flow_worker.telemetry.logs import log
from flow_worker.telemetry.readers import Histograms, PeriodicReader, PrometheusReader, needs_sdk_histograms

if TYPE_CHECKING:
    from flow_worker.telemetry.otlp import CollectorOutage

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_METRIC_ENDPOINTS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", _ENDPOINT)
_SPAN_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", _ENDPOINT)
_EXEMPLARS = "OTEL_METRICS_EXEMPLAR_FILTER"
_EXEMPLAR_FILTERS: Mapping[str, Callable[[], ExemplarFilter]] = {
    "always_off": AlwaysOffExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "trace_based": TraceBasedExemplarFilter,
}
_SERVICE_NAME = "service.name"
_METRIC_EXPORTERS = ("prometheus", "otlp", "console")
_SPAN_EXPORTERS = ("otlp", "console")
_FLUSH_SECONDS = 1.0
_SHUTDOWN_SECONDS = 1.5
"""With a dead collector the last export is lost. A stop keeps 3 s for closing all connections."""


def chosen_exporters(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in `OTEL_METRICS_EXPORTER`; by default `prometheus`, and `otlp` if an endpoint is set.

    The specification's default is `otlp` alone. Without a collector it would log failures.
    """
    chosen = _named(environment, "OTEL_METRICS_EXPORTER", _METRIC_EXPORTERS)
    if chosen is not None:
        return chosen
    return ("prometheus", "otlp") if _has_one_of(environment, _METRIC_ENDPOINTS) else ("prometheus",)


def chosen_span_exporters(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in `OTEL_TRACES_EXPORTER`; by default `otlp` if an endpoint is set, else none."""
    chosen = _named(environment, "OTEL_TRACES_EXPORTER", _SPAN_EXPORTERS)
    if chosen is not None:
        return chosen
    return ("otlp",) if _has_one_of(environment, _SPAN_ENDPOINTS) else ()


def _has_one_of(environment: Mapping[str, str], names: Sequence[str]) -> bool:
    return any(environment.get(name, "").strip() for name in names)


def _named(environment: Mapping[str, str], variable: str, known: Sequence[str]) -> tuple[str, ...] | None:
    """Return the known exporters that the variable names; None if it is not set. Log the others."""
    chosen = environment.get(variable, "").strip().lower()
    if not chosen:
        return None
    names = dict.fromkeys(name.strip() for name in chosen.split(","))
    for name in names:
        if name not in (*known, "none"):
            sentence = f"{variable} names an exporter that the worker does not have; use {', '.join(known)}."
            log(_log, logging.WARNING, "telemetry.unknown_exporter", sentence, exporter=name[:40])
    return tuple(name for name in names if name in known)


def _built(name: str, build: Callable[[str], _T]) -> _T | None:
    """Return the exporter's part. The SDK raises for a value that it cannot read, which must not stop the worker."""
    try:
        return build(name)
    except Exception as error:  # noqa: BLE001 - each exporter has errors of its own
        sentence = f"The exporter '{name}' does not start; the worker works without it. Check its variables OTEL_…."
        log(_log, logging.WARNING, "telemetry.exporter_failed", sentence, exporter=name, error=type(error).__name__)
        return None


class Exporters:
    """The SDK's meter provider with its exporters, and the page that Prometheus scrapes."""

    def __init__(self, names: Sequence[str], resource: Resource, outage: Callable[[], CollectorOutage]) -> None:
        """`outage` returns the log of the collector's outages, which the exporters of spans share."""
        self.registry: CollectorRegistry | None = None
        self._own: Histograms = []
        self.histograms = None if needs_sdk_histograms(os.environ) else self._own
        """Takes the worker's own histograms; None if it needs those of the SDK."""
        self._outage = outage
        readers = [reader for name in names if (reader := _built(name, self._reader)) is not None]
        exemplars = _EXEMPLAR_FILTERS.get(os.environ.get(_EXEMPLARS, ""), AlwaysOffExemplarFilter)()
        self.provider = MeterProvider(readers, resource, shutdown_on_exit=False, exemplar_filter=exemplars)

    async def close(self) -> None:
        """Export once more and shut down, within a second or two."""
        await _in_daemon(lambda: self.provider.shutdown(timeout_millis=_FLUSH_SECONDS * 1000))

    def _reader(self, name: str) -> MetricReader:
        match name:
            case "prometheus":
                # A registry of its own, so that several workers of one process do not share it.
                self.registry = CollectorRegistry()
                for collector in (ProcessCollector, PlatformCollector, GCCollector):
                    collector(registry=self.registry)
                return PrometheusReader(self.registry, self._own)
            case "otlp":
                # Imported here: it takes longer to import than the rest of the SDK.
                from flow_worker.telemetry.otlp import ReportingExporter

                return PeriodicReader(ReportingExporter(self._outage()), self._own)
            case _:
                return PeriodicReader(ConsoleMetricExporter(), self._own)


class SpanExporters:
    """The SDK's tracer provider with its exporters. `OTEL_TRACES_SAMPLER` and `OTEL_BSP_…` configure it."""

    def __init__(self, names: Sequence[str], resource: Resource, outage: Callable[[], CollectorOutage]) -> None:
        self._outage = outage
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for name in names:
            if (processor := _built(name, self._processor)) is not None:
                self.provider.add_span_processor(processor)

    async def close(self) -> None:
        """Export the last spans and shut down, within a second or two."""
        await _in_daemon(self.provider.shutdown)

    def _processor(self, name: str) -> BatchSpanProcessor:
        return BatchSpanProcessor(self._exporter(name))

    def _exporter(self, name: str) -> SpanExporter:
        if name != "otlp":
            return ConsoleSpanExporter()
        from flow_worker.telemetry.otlp import ReportingSpanExporter

        return ReportingSpanExporter(self._outage())


async def _in_daemon(shut_down: Callable[[], None]) -> None:
    """Call the SDK in a daemon thread, because it blocks, and a process that ends waits for all other threads."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def call() -> None:
        with contextlib.suppress(Exception):  # the SDK raises a bare `Exception` when its own deadline ends
            shut_down()
        with contextlib.suppress(RuntimeError):  # the loop may be closed by then
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=call, name="shut down telemetry", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SHUTDOWN_SECONDS):
            await done.wait()


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the page and its content type, in the format that the `Accept` header prefers. For any thread."""
    if _prefers_openmetrics(accept):
        page: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return page, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def _prefers_openmetrics(accept: str) -> bool:
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights[kind] = max(weights.get(kind, 0.0), _weight(parameters))
    openmetrics_, text = (_weight_of(kind, weights) for kind in ("application/openmetrics-text", "text/plain"))
    # A scraper that names no format gets the text: every one reads it.
    return openmetrics_ > text or (openmetrics_ == text > 0 and "application/openmetrics-text" in weights)


def _weight_of(kind: str, weights: Mapping[str, float]) -> float:
    """Return the weight of the most specific range that has the kind (RFC 9110, section 12.5.1)."""
    ranges = (kind, f"{kind.split('/')[0]}/*", "*/*")
    return next((weights[one] for one in ranges if one in weights), 0.0)


def _weight(parameters: Sequence[str]) -> float:
    text = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


def resource_of(version: str, service: str) -> Resource:
    """Return the resource. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come before the worker's own values."""
    own = {_SERVICE_NAME: service, "service.version": version, "service.instance.id": str(uuid.uuid4())}
    given = dict(Resource.create().attributes)
    if str(given[_SERVICE_NAME]).startswith("unknown_service"):  # the SDK's default
        del given[_SERVICE_NAME]
    return Resource.create({name: value for name, value in own.items() if name not in given})
