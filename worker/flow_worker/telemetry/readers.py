"""Readers of the SDK that export the worker's own histograms, too. Import it only if the extra `otel` is installed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from prometheus_client import CollectorRegistry

from flow_worker.telemetry.histograms import Histogram, Snapshot

_SDK_VARIABLES = (
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
)
"""They ask for what only the SDK's histograms do."""

Histograms = list[Histogram]
"""Grows while the worker creates its metrics."""


def needs_sdk_histograms(environment: Mapping[str, str]) -> bool:
    """Return whether a variable asks for histograms that the worker's own are not."""
    return any(environment.get(name, "").strip() for name in _SDK_VARIABLES)


class PrometheusReader(PrometheusMetricReader):
    """Serves the page for Prometheus."""

    def __init__(self, registry: CollectorRegistry, histograms: Histograms) -> None:
        super().__init__(scope_info_enabled=False, registry=registry)
        self._histograms = histograms

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(with_histograms(metrics_data, self._histograms), timeout_millis, **kwargs)


class PeriodicReader(PeriodicExportingMetricReader):
    """Pushes periodically."""

    def __init__(self, exporter: MetricExporter, histograms: Histograms) -> None:
        self._histograms = histograms  # before the SDK starts the thread that reads them
        super().__init__(exporter)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(with_histograms(metrics_data, self._histograms), timeout_millis, **kwargs)


def with_histograms(data: MetricsData, histograms: Sequence[Histogram]) -> MetricsData:
    """Return the metrics of the SDK with these histograms in the first scope, that of the worker."""
    own = [metric for one in list(histograms) if (metric := _metric(one)) is not None]
    if not own or not data.resource_metrics or not data.resource_metrics[0].scope_metrics:
        return data
    resource: ResourceMetrics = data.resource_metrics[0]
    scope: ScopeMetrics = resource.scope_metrics[0]
    scopes = [replace(scope, metrics=[*scope.metrics, *own]), *resource.scope_metrics[1:]]
    return replace(data, resource_metrics=[replace(resource, scope_metrics=scopes), *data.resource_metrics[1:]])


def _metric(histogram: Histogram) -> Metric | None:
    now, snapshots = time.time_ns(), histogram.snapshots()
    if not snapshots:
        return None
    points = [_point(histogram, snapshot, now) for snapshot in snapshots]
    data = HistogramData(points, AggregationTemporality.CUMULATIVE)
    return Metric(histogram.name, histogram.description, histogram.unit, data)


def _point(histogram: Histogram, snapshot: Snapshot, now: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=snapshot.attributes,
        start_time_unix_nano=histogram.started,
        time_unix_nano=now,
        count=sum(snapshot.counts),
        sum=snapshot.total,
        bucket_counts=snapshot.counts,
        explicit_bounds=histogram.bounds,
        min=snapshot.least,
        max=snapshot.greatest,
    )
