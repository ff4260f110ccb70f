"""The exporters of the metrics, over the SDK of OpenTelemetry. Import it only if the extra `otel` is installed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SERVICE_NAME = "service.name"
_KNOWN = ("prometheus", "otlp", "console")
_FLUSH_SECONDS = 1.0
_SHUTDOWN_SECONDS = 1.5
"""With a dead collector the last export is lost. A stop keeps 3 s for closing all connections."""


def chosen_exporters(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in `OTEL_METRICS_EXPORTER`; by default `prometheus`, and `otlp` if an endpoint is set.

    The specification's default is `otlp` alone. Without a collector it would log failures.
    """
    chosen = environment.get("OTEL_METRICS_EXPORTER", "").strip().lower()
    if not chosen:
        has_endpoint = any(environment.get(name, "").strip() for name in _ENDPOINTS)
        return ("prometheus", "otlp") if has_endpoint else ("prometheus",)
    names = dict.fromkeys(name.strip() for name in chosen.split(","))
    for name in names:
        if name not in (*_KNOWN, "none"):
            sentence = (
                f"OTEL_METRICS_EXPORTER names an exporter that the worker does not have; use {', '.join(_KNOWN)}."
            )
            log(_log, logging.WARNING, "telemetry.unknown_exporter", sentence, exporter=name[:40])
    return tuple(name for name in names if name in _KNOWN)


class Exporters:
    """The SDK's meter provider with its exporters, and the page that Prometheus scrapes."""

    def __init__(self, names: Sequence[str], version: str) -> None:
        self.registry: CollectorRegistry | None = None
        readers = [self._reader(name) for name in names]
        exemplars = None if "OTEL_METRICS_EXEMPLAR_FILTER" in os.environ else AlwaysOffExemplarFilter()
        self.provider = MeterProvider(readers, _resource(version), shutdown_on_exit=False, exemplar_filter=exemplars)

    async def close(self) -> None:
        """Export once more and shut down, within a second or two.

        In a daemon thread, because the SDK blocks, and a process that ends waits for all other threads.
        """
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            with contextlib.suppress(Exception):  # the SDK raises a bare `Exception` when its own deadline ends
                self.provider.shutdown(timeout_millis=_FLUSH_SECONDS * 1000)
            with contextlib.suppress(RuntimeError):  # the loop may be closed by then
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="shut down telemetry", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                await done.wait()

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

                return PeriodicExportingMetricReader(ReportingExporter())
            case _:
                return PeriodicExportingMetricReader(ConsoleMetricExporter())


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


def _resource(version: str) -> Resource:
    """Return the resource. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` come before the worker's own values."""
    own = {_SERVICE_NAME: "flow-worker", "service.version": version, "service.instance.id": str(uuid.uuid4())}
    given = dict(Resource.create().attributes)
    if str(given[_SERVICE_NAME]).startswith("unknown_service"):  # the SDK's default
        del given[_SERVICE_NAME]
    return Resource.create({name: value for name, value in own.items() if name not in given})
