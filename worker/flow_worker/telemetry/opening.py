"""Opens the metrics and their exporters, as the standard `OTEL_…` variables say."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.metrics import MeterProvider, get_meter_provider

from flow_worker.telemetry.logs import log
from flow_worker.telemetry.metrics import BUILD_INFO, Metrics
from flow_worker.telemetry.metrics_page import MetricsPage, Page, absent

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_log = logging.getLogger(__name__)

_LAG_SECONDS = 0.25
_LAGS_PER_SAMPLE = 4
_API = "opentelemetry.metrics"

_NOT_INSTALLED = (
    "The worker exports no metrics, because their packages are not installed. Install them with: "
    "pip install 'flow-worker[otel]'"
)
_DISABLED = "The worker exports no metrics, because OTEL_SDK_DISABLED is true. Remove the variable, and restart."
_NOT_CHOSEN = (
    "The worker has no metrics page, because OTEL_METRICS_EXPORTER does not name 'prometheus'. Add it, or remove the "
    "variable, and restart."
)
_ELSEWHERE = "The worker's metrics go to the OpenTelemetry SDK that this process set up before the worker."


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The metrics of one worker, and the page on which Prometheus scrapes them."""

    metrics: Metrics
    page: MetricsPage


@asynccontextmanager
async def open_telemetry() -> AsyncIterator[Telemetry]:
    """Open the metrics. At the end, export once more and close.

    A collector that is away costs a log line, and about a second at the end.
    """
    provider = get_meter_provider()
    if not _does_nothing(provider):
        async with _sampled(provider) as metrics:
            yield Telemetry(metrics, absent(_ELSEWHERE, 404))
    elif os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield Telemetry(_metrics(provider), absent(_DISABLED, 404))
    else:
        async with _exported(provider) as telemetry:
            yield telemetry


def _does_nothing(provider: MeterProvider) -> bool:
    """Return whether no SDK is set up: the provider is the API's own."""
    return type(provider).__module__.startswith(_API)


@asynccontextmanager
async def _exported(fallback: MeterProvider) -> AsyncIterator[Telemetry]:
    try:
        from flow_worker.telemetry import exporters
    except ImportError:
        yield Telemetry(_metrics(fallback), absent(_NOT_INSTALLED, 501))
        return
    names = exporters.chosen_exporters(os.environ)
    if not names:
        yield Telemetry(_metrics(fallback), absent(_NOT_CHOSEN, 404))
        return
    opened = exporters.Exporters(names, version("flow-worker"))
    sentence = "The worker exports metrics."
    log(_log, logging.INFO, "telemetry.exporting", sentence, exporters=", ".join(names))
    try:
        async with _sampled(opened.provider) as metrics:
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
async def _sampled(provider: MeterProvider) -> AsyncIterator[Metrics]:
    """Sample the gauges during the block, for the exporters that push."""
    metrics = _metrics(provider)
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


def _metrics(provider: MeterProvider) -> Metrics:
    release = version("flow-worker")
    metrics = Metrics(provider.get_meter("flow_worker", release))
    info = {"version": release, "python_version": platform.python_version()}
    metrics.gauge(BUILD_INFO, lambda: [(1, info)])
    return metrics
