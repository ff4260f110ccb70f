"""Opens metrics and traces with their exporters, as the standard `OTEL_…` variables say."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import Tracer, TracerProvider, get_tracer_provider

from flow_worker.telemetry.histograms import Histogram
from flow_worker.telemetry.logs import WORKER, log
from flow_worker.telemetry.metrics import BUILD_INFO, Metrics
from flow_worker.telemetry.metrics_page import MetricsPage, Page, absent
from flow_worker.telemetry.variables import drop_unreadable, provider

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from flow_worker.telemetry.exporters import SpanExporters
    from flow_worker.telemetry.otlp import CollectorOutage

_log = logging.getLogger(__name__)

_LAG_SECONDS = 0.25
_LAGS_PER_SAMPLE = 4
_APIS = ("opentelemetry.metrics", "opentelemetry.trace")

_NOT_INSTALLED = (
    "This process exports no metrics, because their packages are not installed. Install them with: "
    "pip install 'flow-worker[otel]'"
)
_DISABLED = "This process exports no metrics, because OTEL_SDK_DISABLED is true. Remove the variable, and restart."
_NOT_CHOSEN = (
    "This process has no metrics page, because OTEL_METRICS_EXPORTER does not name 'prometheus'. Add it, or remove the "
    "variable, and restart."
)
_ELSEWHERE = "The metrics go to an OpenTelemetry SDK that this process set up before."


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The metrics of one worker, the page on which Prometheus scrapes them, and the tracer."""

    metrics: Metrics
    page: MetricsPage
    tracer: Tracer | None = None
    """None if no SDK takes the spans."""


@dataclass(frozen=True, slots=True)
class _Shared:
    """The parts that the exporters of metrics and of spans share."""

    resource: Any  # of the SDK, which may not be installed
    outage: Callable[[], CollectorOutage]


@asynccontextmanager
async def open_telemetry(service: str = WORKER) -> AsyncIterator[Telemetry]:
    """Open metrics and traces of this service. At the end, export once more and close.

    A collector that is away costs a log line, and about a second at the end.
    """
    drop_unreadable(os.environ)
    shared = None if _is_disabled() else _shared(service)
    async with _opened_metrics(shared) as telemetry:
        spans = None if shared is None else _span_exporters(shared)
        tracers = _tracers() if spans is None else spans.provider
        tracer = None if _does_nothing(tracers) else tracers.get_tracer("flow_worker", version("flow-worker"))
        try:
            yield replace(telemetry, tracer=tracer)
        finally:
            # Beside the end of the metrics, so that a collector that is away costs the time once.
            closing = None if spans is None else asyncio.create_task(spans.close(), name="close traces")
    if closing is not None:
        await closing


def _is_disabled() -> bool:
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _does_nothing(provider: MeterProvider | TracerProvider) -> bool:
    """Return whether no SDK is set up: the provider is the API's own."""
    return type(provider).__module__.startswith(_APIS)


def _tracers() -> TracerProvider:
    return provider(get_tracer_provider, os.environ, "OTEL_PYTHON_TRACER_PROVIDER")


def _shared(service: str) -> _Shared | None:
    """Return what the exporters share; None if their packages are not installed."""
    try:
        from flow_worker.telemetry import exporters
    except ImportError:
        return None

    @cache
    def outage() -> CollectorOutage:
        from flow_worker.telemetry.otlp import CollectorOutage

        return CollectorOutage()

    return _Shared(exporters.resource_of(version("flow-worker"), service), outage)


def _span_exporters(shared: _Shared) -> SpanExporters | None:
    """Return the exporters of spans; None if another SDK of this process has them, or the variables name none."""
    from flow_worker.telemetry import exporters

    if not _does_nothing(_tracers()):
        return None
    names = exporters.chosen_span_exporters(os.environ)
    if not names:
        return None
    log(_log, logging.INFO, "telemetry.tracing", "This process exports spans.", exporters=", ".join(names))
    return exporters.SpanExporters(names, shared.resource, shared.outage)


@asynccontextmanager
async def _opened_metrics(shared: _Shared | None) -> AsyncIterator[Telemetry]:
    meters = provider(get_meter_provider, os.environ, "OTEL_PYTHON_METER_PROVIDER")
    if not _does_nothing(meters):
        async with _sampled(meters) as metrics:
            yield Telemetry(metrics, absent(_ELSEWHERE, 404))
    elif _is_disabled():
        yield Telemetry(_metrics(meters), absent(_DISABLED, 404))
    elif shared is None:
        yield Telemetry(_metrics(meters), absent(_NOT_INSTALLED, 501))
    else:
        async with _exported(meters, shared) as telemetry:
            yield telemetry


@asynccontextmanager
async def _exported(fallback: MeterProvider, shared: _Shared) -> AsyncIterator[Telemetry]:
    from flow_worker.telemetry import exporters

    names = exporters.chosen_exporters(os.environ)
    if not names:
        yield Telemetry(_metrics(fallback), absent(_NOT_CHOSEN, 404))
        return
    opened = exporters.Exporters(names, shared.resource, shared.outage)
    sentence = "This process exports metrics."
    log(_log, logging.INFO, "telemetry.exporting", sentence, exporters=", ".join(names))
    try:
        async with _sampled(opened.provider, opened.histograms) as metrics:
            registry = opened.registry
            yield Telemetry(metrics, absent(_NOT_CHOSEN, 404) if registry is None else _page(registry, metrics))
    finally:
        await opened.close()


def _page(registry: CollectorRegistry, metrics: Metrics) -> MetricsPage:
    from flow_worker.telemetry.exporters import render

    rendering = asyncio.Lock()  # the exporter's collector serves one thread at a time

    async def answer(accept: str) -> Page:
        async with rendering:
            metrics.sample()
            # In a thread: some hundreds of series take milliseconds.
            return Page(*await asyncio.to_thread(render, registry, accept))

    return answer


@asynccontextmanager
async def _sampled(provider: MeterProvider, histograms: list[Histogram] | None = None) -> AsyncIterator[Metrics]:
    """Sample the gauges during the block, for the exporters that push."""
    metrics = _metrics(provider, histograms)
    metrics.sample()
    sampling = asyncio.create_task(_keep_sampling(metrics), name="sample metrics")
    try:
        yield metrics
    finally:
        sampling.cancel()
        await asyncio.wait([sampling])


async def _keep_sampling(metrics: Metrics) -> None:
    """Sample the gauges, and measure how late the loop wakes this task; end never."""
    while True:
        metrics.sample()
        for _ in range(_LAGS_PER_SAMPLE):
            began = time.perf_counter()
            await asyncio.sleep(_LAG_SECONDS)
            metrics.loop_lag.record(time.perf_counter() - began - _LAG_SECONDS)


def _metrics(provider: MeterProvider, histograms: list[Histogram] | None = None) -> Metrics:
    release = version("flow-worker")
    metrics = Metrics(provider.get_meter("flow_worker", release), histograms)
    info = {"version": release, "python_version": platform.python_version()}
    metrics.gauge(BUILD_INFO, lambda: [(1, info)])
    return metrics
