"""Pushes the metrics to a collector by OTLP over HTTP. Import it only if the extra `otel` is installed."""

from __future__ import annotations

import logging
from typing import Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

# The SDK logs several lines for each failed export, with the endpoint. `ReportingExporter` logs one for an outage.
logging.getLogger("opentelemetry.exporter.otlp").setLevel(logging.CRITICAL)


class ReportingExporter(OTLPMetricExporter):
    """Logs the first failed export of an outage, and its end."""

    _is_failing = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export over HTTP."""
        result = super().export(metrics_data, timeout_millis, **kwargs)
        failed = result is not MetricExportResult.SUCCESS
        if failed != self._is_failing:
            self._is_failing = failed
            self._report(failed)
        return result

    @staticmethod
    def _report(failed: bool) -> None:
        if failed:
            # Without the error: it quotes the endpoint, which may hold a key.
            sentence = "The collector does not take the worker's metrics; the worker tries on. Check the OTLP endpoint."
            log(_log, logging.WARNING, "telemetry.export_failing", sentence)
        else:
            log(_log, logging.INFO, "telemetry.export_recovered", "The collector takes the worker's metrics again.")
