"""Builds the wrappers, and registers the gauges that read the worker's parts."""

from __future__ import annotations

from flow_worker.broker_clock import BrokerClock
from flow_worker.instrumentation.journal import ObservedJournal
from flow_worker.journal import Journal
from flow_worker.telemetry.health import Health
from flow_worker.telemetry.metrics import CLOCK_OFFSET, JOURNAL_AVAILABLE, Metrics


class Instrumentation:
    """The instrumentation of one worker.

    A tracer can create its spans in the same wrappers: each sees the begin and the end of an operation.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def watch(self, health: Health, clock: BrokerClock) -> None:
        """Read the gauges of the journal and of the clock."""
        self._metrics.gauge(JOURNAL_AVAILABLE, lambda: [(int(health.journal.is_available), {})])
        self._metrics.gauge(CLOCK_OFFSET, lambda: [(clock.offset_seconds, {})])

    def journal(self, journal: Journal) -> Journal:
        """Return the journal with its operations measured."""
        return ObservedJournal(journal, self._metrics.journal_duration)
