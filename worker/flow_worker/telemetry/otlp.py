"""Pushes metrics and spans to a collector by OTLP over HTTP. Import it only if the extra `otel` is installed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 10.0
"""The SDK's default."""

# The SDK logs several lines for each failed export, with the endpoint. `CollectorOutage` logs one for an outage. The
# batch processor logs the spans that it drops meanwhile.
for _name in ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class CollectorOutage:
    """Logs the first failed export of an outage, of metrics or spans, and the end of the outage. For any thread."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._lock = threading.Lock()

    def exported(self, signal: str, *, failed: bool) -> None:
        """Take note of an export of `metrics` or `spans`."""
        with self._lock:
            was_failing = bool(self._failing)
            if failed:
                self._failing.add(signal)
            else:
                self._failing.discard(signal)
            is_failing = bool(self._failing)
        if is_failing != was_failing:
            self._report(is_failing)

    @staticmethod
    def _report(failing: bool) -> None:
        if failing:
            # Without the error: it quotes the endpoint, which may hold a key.
            sentence = "The collector does not take the telemetry; this process keeps trying. Check the OTLP endpoint."
            log(_log, logging.WARNING, "telemetry.export_failing", sentence)
        else:
            sentence = "The collector takes the telemetry again."
            log(_log, logging.INFO, "telemetry.export_recovered", sentence)


def _timeout_seconds(variable: str) -> float:
    for name in (variable, "OTEL_EXPORTER_OTLP_TIMEOUT"):
        with suppress(ValueError):
            return float(os.environ.get(name, ""))
    return _TIMEOUT_SECONDS


@contextmanager
def _watched(outage: CollectorOutage, signal: str, timeout: float) -> Iterator[None]:
    """Report an export that does not end: a collector that sends a byte now and then holds it beyond its timeout."""
    watch = threading.Timer(2 * timeout + 0.5, lambda: outage.exported(signal, failed=True))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


class ReportingExporter(OTLPMetricExporter):
    """Exports metrics, and reports the outages of its collector."""

    def __init__(self, outage: CollectorOutage) -> None:
        super().__init__()
        self._outage = outage
        self._watch_seconds = _timeout_seconds("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT")

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export over HTTP."""
        with _watched(self._outage, "metrics", self._watch_seconds):
            result = super().export(metrics_data, timeout_millis, **kwargs)
        self._outage.exported("metrics", failed=result is not MetricExportResult.SUCCESS)
        return result


class ReportingSpanExporter(OTLPSpanExporter):
    """Exports spans, and reports the outages of its collector."""

    def __init__(self, outage: CollectorOutage) -> None:
        super().__init__()
        self._outage = outage
        self._watch_seconds = _timeout_seconds("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export over HTTP."""
        with _watched(self._outage, "spans", self._watch_seconds):
            result = super().export(spans)
        self._outage.exported("spans", failed=result is not SpanExportResult.SUCCESS)
        return result
