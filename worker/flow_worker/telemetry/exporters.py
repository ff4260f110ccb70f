"""The exporters of metrics and spans, over OpenTelemetry's SDK. Import it only if the extra `otel` is installed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from flow_worker.telemetry.logs import log

if TYPE_CHECKING:
    from flow_worker.telemetry.otlp import CollectorOutage

_log = logging.getLogger(__name__)

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_METRIC_ENDPOINTS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", _ENDPOINT)
_SPAN_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", _ENDPOINT)
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


class Exporters:
    """The SDK's meter provider with its exporters, and the page that Prometheus scrapes."""

    def __init__(self, names: Sequence[str], resource: Resource, outage: Callable[[], CollectorOutage]) -> None:
        """`outage` returns the log of the collector's outages, which the exporters of spans share."""
        self.registry: CollectorRegistry | None = None
        self._outage = outage
        readers = [self._reader(name) for name in names]
        exemplars = None if "OTEL_METRICS_EXEMPLAR_FILTER" in os.environ else AlwaysOffExemplarFilter()
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
                return PrometheusMetricReader(scope_info_enabled=False, registry=self.registry)
            case "otlp":
                # Imported here: it takes longer to import than the rest of the SDK.
                from flow_worker.telemetry.otlp import ReportingExporter

                return PeriodicExportingMetricReader(ReportingExporter(self._outage()))
            case _:
                return PeriodicExportingMetricReader(ConsoleMetricExporter())


class SpanExporters:
    """The SDK's tracer provider with its exporters. `OTEL_TRACES_SAMPLER` and `OTEL_BSP_…` configure it."""

    def __init__(self, names: Sequence[str], resource: Resource, outage: Callable[[], CollectorOutage]) -> None:
        self._outage = outage
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for name in names:
            self.provider.add_span_processor(BatchSpanProcessor(self._exporter(name)))

    async def close(self) -> None:
        """Export the last spans and shut down, within a second or two."""
        await _in_daemon(self.provider.shutdown)

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
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind in weights:
            weights[kind] = max(weights[kind], _weight(parameters))
    return weights["application/openmetrics-text"] > 0 and (
        weights["application/openmetrics-text"] >= weights["text/plain"]
    )


def _weight(parameters: Sequence[str]) -> float:
    text = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    try:
        return float(text)
    except ValueError:
        return 0.0


def resource_of(version: str) -> Resource:
    """Return the resource. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come before the worker's own values."""
    own = {_SERVICE_NAME: "flow-worker", "service.version": version, "service.instance.id": str(uuid.uuid4())}
    given = dict(Resource.create().attributes)
    if str(given[_SERVICE_NAME]).startswith("unknown_service"):  # the SDK's default
        del given[_SERVICE_NAME]
    return Resource.create({name: value for name, value in own.items() if name not in given})
