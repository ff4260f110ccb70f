"""Assembles the outbox, its lanes and its runner from the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.result import FlowResult
from flow_worker import clock
from flow_worker.delivery.lane import LaneRules, SinkLane
from flow_worker.delivery.opening import DeliveryOpener, Routes, named_by
from flow_worker.delivery.outbox import DeliveryOutbox
from flow_worker.delivery.port import Delivery, Settlements, Sink
from flow_worker.delivery.report import Measures, SinkReport
from flow_worker.delivery.runner import DeliveryRunner
from flow_worker.delivery.sqlite_outbox import SqliteOutbox
from flow_worker.delivery.store import OutboxStore
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Journal
from flow_worker.journal.sqlite import SqliteStore
from flow_worker.runtime.supervisor import Service
from flow_worker.settings import DeliverySettings, JournalSettings, OutboxSettings, Settings
from flow_worker.telemetry.health import Health
from flow_worker.telemetry.metrics import SINK_AVAILABLE, Metrics
from flow_worker.telemetry.sink_health import SinkHealth

if TYPE_CHECKING:
    from flow_worker.journal.table import TableStore

_JITTER_FROM = 0.5
_TO_PUBLISH_SECONDS = 86_400.0
"""The time to publish a settling result after the last search for the run."""


class _Clock(Protocol):
    def now(self) -> datetime: ...

    def reached(self) -> datetime: ...


class _Measures:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def attempted(self, sink: str, state: str, outcome: str, seconds: float) -> None:
        self._metrics.deliveries.add(sink, state, outcome)
        self._metrics.delivery_duration.record(seconds, sink, outcome)


async def _no_purge() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Deliveries:
    """The parts that the worker runs; all of them are empty without sinks."""

    opener: DeliveryOpener | None = None
    services: Sequence[Service] = field(default_factory=tuple)
    purge: Callable[[], Awaitable[int]] = _no_purge


OwnSinks = Callable[[Settlements], Sequence[Sink]]
"""Returns the sinks that the worker itself adds, for all queues and flows."""


@asynccontextmanager
async def open_deliveries(
    settings: Settings,
    sinks: Sequence[Sink],
    store: SqliteStore | TableStore,
    journal: Journal,
    *,
    time: _Clock,
    health: Health,
    metrics: Metrics,
    own_sinks: OwnSinks = lambda _: (),
) -> AsyncIterator[Deliveries]:
    """Open the outbox beside the journal's store, and close it and the sinks at the end of the context.

    Without sinks nothing is opened: a table journal then needs no second table.
    """
    settlements = _Settlements()
    every = (*sinks, *(own := own_sinks(settlements)))
    if not every:
        yield Deliveries()
        return
    outbox = DeliveryOutbox(
        await outbox_store(settings.journal, settings.outbox, store, settings.identity.client_id),
        retention=timedelta(seconds=settings.journal.retention_seconds),
        deadline_seconds=settings.journal.deadline_seconds,
        now=time.now,
        reached=time.reached,
    )
    try:
        routes = Routes(_named(settings), sinks, own)
        opener = settlements.opener = DeliveryOpener(outbox, time.now, routes)
        measures = _Measures(metrics)
        lanes = [_lane(sink, settings, outbox, journal, time.now, _health(health, sink), measures) for sink in every]
        _observe(metrics, health)
        runner = DeliveryRunner(outbox, lanes, interval_seconds=settings.outbox.interval_seconds, repeat=opener.repeat)
        opener.offer = runner.offer
        yield Deliveries(opener, (runner,), outbox.purge)
        with suppress(TemporarilyUnavailable):  # the last replies came after the runner's last look
            await opener.repeat()
    finally:
        for sink in every:
            await sink.close()
        await outbox.close()


class _Settlements:
    """Passes settlements on to the opener, which needs the sinks first."""

    opener: DeliveryOpener | None = None

    async def settled(self, delivery: Delivery, result: FlowResult) -> None:
        if self.opener is not None:
            await self.opener.settled(delivery, result)


def _named(settings: Settings) -> Callable[[str, str], Sequence[str]]:
    return named_by(
        {queue.name.lower(): queue.deliver_to for queue in settings.request_queues},
        {name: flow.deliver_to for name, flow in settings.flows.items()},
    )


def _observe(metrics: Metrics, health: Health) -> None:
    """Register the gauge, and export zeros, so that an alert sees the first event."""
    sinks = health.sinks
    metrics.gauge(SINK_AVAILABLE, lambda: [(int(each.is_available), {"sink": name}) for name, each in sinks.items()])
    for name in sinks:
        for outcome in ("delivered", "failed", "given_up"):
            metrics.deliveries.begin(name, "ended", outcome)


def _health(health: Health, sink: Sink) -> SinkHealth:
    return health.sinks.setdefault(sink.name, SinkHealth())


def _bounds_of_settling(settings: Settings) -> DeliverySettings:
    records = settings.run_records
    return DeliverySettings.model_construct(
        max_concurrent=records.max_concurrent,
        attempt_seconds=records.attempt_seconds,
        max_pause_seconds=records.max_pause_seconds,
        max_age_seconds=records.max_seconds + _TO_PUBLISH_SECONDS,
    )


def _lane(
    sink: Sink,
    settings: Settings,
    outbox: DeliveryOutbox,
    journal: Journal,
    now: Callable[[], datetime],
    health: SinkHealth,
    measures: Measures,
) -> SinkLane:
    bounds = settings.delivery.get(sink.name) or _bounds_of_settling(settings)
    rules = LaneRules(
        max_concurrent=bounds.max_concurrent,
        attempt_seconds=bounds.attempt_seconds,
        pauses=ExponentialBackoff(bounds.base_seconds, bounds.max_pause_seconds, jitter_from=_JITTER_FROM),
        max_age=timedelta(seconds=bounds.max_age_seconds),
        check=timedelta(seconds=settings.outbox.check_seconds),
    )
    report = SinkReport(sink.name, health, measures)
    return SinkLane(sink, rules, outbox, journal.find, report, now=now)


async def outbox_store(
    journal: JournalSettings, outbox: OutboxSettings, store: SqliteStore | TableStore, client_id: str | None
) -> OutboxStore:
    """Return the outbox's store beside the journal's. Raises `InvalidSettings`."""
    if isinstance(store, SqliteStore):
        return SqliteOutbox(store.file)
    # Imported here: a worker with an SQLite journal need not load the Azure Tables SDK.
    from flow_worker.delivery.table_outbox import TableOutbox

    return await TableOutbox.open(journal, outbox.table_name or f"{journal.table_name}deliveries", client_id)


def outbox_of_command(store: OutboxStore, journal: JournalSettings) -> DeliveryOutbox:
    """Return the outbox for a command that reads it or retries deliveries."""
    return DeliveryOutbox(
        store,
        retention=timedelta(seconds=journal.retention_seconds),
        deadline_seconds=journal.deadline_seconds,
        now=clock.now,
    )
