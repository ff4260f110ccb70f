"""Assembles the worker from its parts; the only module that knows them all."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from flow_worker.access.build import build_access, build_identity, verify_organizations
from flow_worker.assembly import build_admission, call_limiter, invoker, lane_counts, own_sinks, replies, sinks
from flow_worker.broker_clock import BrokerClock
from flow_worker.delivery.build import open_deliveries
from flow_worker.delivery.opening import DeliveryOpener
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.limits import CallLimiter
from flow_worker.flows.registry import Registry
from flow_worker.instrumentation import Instrumentation
from flow_worker.journal import Journal, open_journal
from flow_worker.journal.build import open_store
from flow_worker.pipeline import decode
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.conclude import ConclusionRules, Conclusions
from flow_worker.pipeline.decode import Reader
from flow_worker.pipeline.ending import Endings
from flow_worker.pipeline.handler import Handler
from flow_worker.pipeline.journal_share import JournalShare
from flow_worker.pipeline.ports import Caller, Progress
from flow_worker.pipeline.proof_lanes import ProofLanes
from flow_worker.pipeline.recall import Recall
from flow_worker.pipeline.seal import Seal
from flow_worker.pipeline.unproven import UnprovenContinuations
from flow_worker.pipeline.unreadable import UnreadableContinuations
from flow_worker.runtime.answered_dead_letters import AnsweredDeadLetters
from flow_worker.runtime.burst import Burst
from flow_worker.runtime.dead_letter_watch import DeadLetterWatch
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.journal_purge import JournalPurge
from flow_worker.runtime.lane import Lane, reconnection_log
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.periodic_task import PeriodicTask
from flow_worker.runtime.ports import Bus, OutcomeSender
from flow_worker.runtime.progress import ProgressReports, ReportingDispatcher
from flow_worker.runtime.schedule import Schedule
from flow_worker.runtime.seal_keys import open_seal
from flow_worker.runtime.sole_sender import require_sole_sender
from flow_worker.runtime.status import WorkerStatus
from flow_worker.runtime.stop_signals import StopSignals
from flow_worker.runtime.supervisor import OnStop, Service, Supervisor
from flow_worker.runtime.unproven_dead_letters import UnprovenDeadLetters
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import Settings
from flow_worker.telemetry.health import Health, serve_health
from flow_worker.telemetry.logs import log
from flow_worker.telemetry.metrics_page import MetricsPage
from flow_worker.telemetry.opening import open_telemetry

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ports:
    """The worker's ports to the outside. Each is a protocol, so that an adapter can wrap it."""

    bus: Bus
    journal: Journal
    caller: Caller


WrapPorts = Callable[[Ports], Ports]
"""Returns the ports with adapters around them, for telemetry or a test."""


def unwrapped(ports: Ports) -> Ports:
    """Return the ports as they are."""
    return ports


async def run(settings: Settings, on_stop: OnStop = lambda _: None) -> None:
    """Work until SIGTERM or SIGINT (Ctrl-C on Windows), then drain and return.

    `on_stop`: see `Supervisor`. Raises what `assembled` raises, and the error of a lane or periodic task
    that failed.
    """
    signals = StopSignals(on_stop)
    try:
        async with assembled(settings, on_stop=on_stop) as supervisor:
            signals.supervisor = supervisor
            _spare_the_collector()
            supervisor.health.on_connected = _Announcement(settings)
            await supervisor.run()
    except asyncio.CancelledError:
        if not signals.stopped_start:
            raise
        log(_log, logging.INFO, "supervisor.stopped", "The worker stopped while it started.")


class _Announcement:
    """Says once that the worker works, and not before a lane receives requests."""

    def __init__(self, settings: Settings) -> None:
        self._request_queues = {queue.name for queue in settings.request_queues}
        self._is_made = False

    def __call__(self, queue: str) -> None:
        if self._is_made or queue not in self._request_queues:
            return
        self._is_made = True
        log(_log, logging.INFO, "worker.started", f"The worker receives requests from '{queue}'.", queue=queue)


@asynccontextmanager
async def assembled(
    settings: Settings, wrap: WrapPorts = unwrapped, *, on_stop: OnStop = lambda _: None
) -> AsyncIterator[Supervisor]:
    """Open everything that the worker needs, and yield a supervisor that is ready to run.

    `on_stop`: see `Supervisor`. Raises `InvalidSettings` if the settings can never work, and `CannotListen`.
    """
    clock = BrokerClock()
    health = Health(clock_offset=lambda: clock.offset_seconds)
    async with AsyncExitStack() as stack:
        telemetry = await stack.enter_async_context(open_telemetry())
        metrics = telemetry.metrics
        instrumentation = Instrumentation(metrics, settings, clock, telemetry.tracer)
        # Next, so that liveness probes get an answer while the other parts open.
        await stack.enter_async_context(_serve_health(health, settings, telemetry.page))
        identity = await stack.enter_async_context(build_identity(settings, metrics))
        bus = await stack.enter_async_context(
            open_service_bus(settings.servicebus, client_id=settings.identity.client_id, evidence=clock)
        )
        # Before any lane exists. The seal is the first wall; this one keeps strangers' messages out of the queue.
        await require_sole_sender(bus, settings.continuations.queue, settings.continuations.sole_sender)
        store = await open_store(settings.journal, settings.identity.client_id)
        journal = await stack.enter_async_context(
            open_journal(
                settings.journal,
                now=clock.now,
                reached=clock.reached,
                health=health.journal,
                metrics=metrics,
                opened=store,
            )
        )
        seal = await open_seal(settings.continuations, settings.journal)  # after the journal, which makes their folder
        health.seal = seal.summary()
        caller = await stack.enter_async_context(invoker(settings, identity))
        access = await stack.enter_async_context(build_access(settings, identity, clock.now, metrics))
        checks = InputChecks(settings.flows, settings.input_checks, lane_counts(settings))
        await stack.enter_async_context(checks)
        await verify_organizations(settings, access)
        ports = wrap(
            Ports(
                instrumentation.bus(bus, health, bus.open_senders),
                instrumentation.journal(journal, health),
                instrumentation.caller(caller),
            )
        )
        limiter = call_limiter(settings, clock.now)
        instrumentation.watch_limits(limiter.state)
        admission = build_admission(settings, access, checks, instrumentation.decided)
        # The bus without its instrumentation: a state belongs to no trace of its own.
        progress = ProgressReports(bus, settings.progress_queues, clock.now)
        deliveries = await stack.enter_async_context(
            open_deliveries(
                settings,
                sinks(settings, access, clock.now),
                store,
                ports.journal,
                time=clock,
                health=health,
                metrics=metrics,
                own_sinks=own_sinks(settings, access, ports.journal, ports.bus, clock.now),
            )
        )
        opener = deliveries.opener
        handler = _handler(settings, ports, admission, access.registry, limiter, clock, progress, opener)
        dispatcher = ReportingDispatcher(_dispatcher(settings, ports, handler, seal, opener), progress)
        of_lanes = instrumentation.dispatcher(dispatcher)
        of_watches = instrumentation.dispatcher(dispatcher, for_dead_letters=True)
        queues = _queues(settings, seal)
        services: list[Service] = [
            *_lanes(settings, queues, ports, handler, of_lanes, health),
            *_dead_letter_watches(settings, queues, ports, handler, of_watches, health, clock.now),
            _purge(settings, ports, clock, deliveries.purge),
            *deliveries.services,
            *([progress] if settings.progress_queues else []),
        ]
        health.status = WorkerStatus(settings, health, limiter, clock.now(), clock.now)
        yield Supervisor(
            services,
            health,
            grace_seconds=settings.shutdown_grace_seconds,
            stop_seconds=settings.stop_seconds,
            on_stop=on_stop,
        )


def _serve_health(health: Health, settings: Settings, metrics_page: MetricsPage) -> AbstractAsyncContextManager[None]:
    endpoint = settings.health
    return serve_health(health, endpoint.host, endpoint.port, status_callers=endpoint.status, metrics_page=metrics_page)


Queues = list[tuple[str, Reader, int]]
"""The name, the reader and the number of lanes of each queue that the worker receives from."""


def _queues(settings: Settings, seal: Seal) -> Queues:
    readers = decode.readers(settings.request_queues, settings.continuations.queue, seal)
    return [(queue, readers[queue], lanes) for queue, lanes in lane_counts(settings).items()]


def _lanes(
    settings: Settings, queues: Queues, ports: Ports, handler: Handler, dispatcher: OutcomeSender, health: Health
) -> list[Lane]:
    requests = {queue.name for queue in settings.request_queues}
    return [
        Lane(
            f"{queue}#{number}",
            queue,
            bus=ports.bus,
            journey=handler,
            read=read,
            dispatcher=dispatcher,
            health=health.lane(queue),
            is_halted=lambda: health.journal.is_lost,
            outages=outages,
            burst=burst,
            reconnect_max_seconds=settings.servicebus.reconnect_max_seconds,
        )
        for queue, read, count in queues
        for outages in [reconnection_log(queue)]
        for burst in [Burst(count if queue in requests else 0)]
        for number in range(count)
    ]


def _dead_letter_watches(
    settings: Settings,
    queues: Queues,
    ports: Ports,
    handler: Handler,
    dispatcher: OutcomeSender,
    health: Health,
    now: Callable[[], datetime],
) -> list[PeriodicTask]:
    if not settings.dead_letters.watch:
        return []
    # Half, so that the journal still remembers the request while the watch publishes its result.
    max_age = timedelta(seconds=settings.journal.retention_seconds / 2)
    # Shorter than that, because the watch passes over the older ones.
    longest = settings.max_unproven_retention_seconds
    retention = timedelta(seconds=min(settings.dead_letters.unproven_retention_seconds, longest))
    max_count = settings.dead_letters.unproven_max_count
    watches = {
        queue: DeadLetterWatch(
            queue,
            read,
            bus=ports.bus,
            handler=handler,
            dispatcher=dispatcher,
            answered=AnsweredDeadLetters(queue, ports.journal),
            unproven=UnprovenDeadLetters(queue, retention=retention, max_count=max_count, now=now),
            max_age=max_age,
            now=now,
        )
        for queue, read, _ in queues
    }
    interval = settings.dead_letters.interval_seconds
    return [
        PeriodicTask(
            f"dead letters of {queue}",
            watch.answer_all,
            every_seconds=interval,
            pause_seconds=watch.pause_seconds,
            on_stop=watch.stop,
            # The lanes report a queue that is not there or not reachable, with the count of their attempts.
            is_reported=partial(_is_disconnected, health, queue),
        )
        for queue, watch in watches.items()
    ]


def _is_disconnected(health: Health, queue: str) -> bool:
    return not health.is_connected(queue)


def _purge(
    settings: Settings, ports: Ports, clock: BrokerClock, purge_outbox: Callable[[], Awaitable[int]]
) -> PeriodicTask:
    async def purge_both() -> int:
        return await ports.journal.purge() + await purge_outbox()

    every = settings.journal.purge_interval_seconds
    purge = JournalPurge(purge_both, lambda: clock.has_evidence, every_seconds=every)
    return PeriodicTask("journal purge", purge.purge, every_seconds=0.0, pause_seconds=purge.pause_seconds)


def _dispatcher(
    settings: Settings, ports: Ports, handler: Handler, seal: Seal, opener: DeliveryOpener | None
) -> Dispatcher:
    continuations = settings.continuations
    schedule = Schedule(
        Outbox(ports.bus), continuations.queue, seal=seal, schedule_seconds=continuations.schedule_seconds
    )
    return Dispatcher(
        replies(settings, ports.bus),
        schedule,
        ports.journal,
        end_oversized=handler.end_oversized,
        reply_retention=timedelta(seconds=settings.replies.time_to_live_seconds),
        published=None if opener is None else opener.published,
    )


def _handler(
    settings: Settings,
    ports: Ports,
    admission: Admission,
    registry: Registry,
    limiter: CallLimiter,
    clock: BrokerClock,
    progress: Progress,
    opener: DeliveryOpener | None,
) -> Handler:
    now = clock.now
    max_outage = timedelta(seconds=settings.journal.max_outage_seconds)
    rules = ConclusionRules(
        settings.replies.queues,
        settings.replies.default_queue,
        settings.retry,
        max_outage,
        settings.gateway_reply_queues,
    )
    conclusions = Conclusions(
        ports.journal,
        registry,
        rules,
        now,
        max_message_bytes=ports.bus.max_message_bytes,
        journal_share=JournalShare(settings.senders.max_journal_bytes_per_day, now),
    )
    margin = settings.journal.lease_margin_seconds
    recall = Recall(ports.journal, conclusions, lease_margin_seconds=margin, now=now)
    return Handler(
        admission=admission,
        recall=recall,
        endings=Endings(recall, conclusions),
        caller=ports.caller,
        limiter=limiter,
        conclusions=conclusions,
        unreadable=UnreadableContinuations(
            ports.journal,
            rules,
            wait_seconds=settings.continuations.unreadable_seconds,
            lease_seconds=margin,
            now=now,
        ),
        unproven=UnprovenContinuations(ports.journal, wait_seconds=settings.continuations.unreadable_seconds, now=now),
        now=now,
        reached=clock.reached,
        proof_lanes=ProofLanes(lane_counts(settings)),
        progress=progress,
        deliveries=opener,
    )


def _spare_the_collector() -> None:
    """Exempt all objects of the start from garbage collection.

    A large request makes the collector look at every object. That stopped the event loop for about 70 ms, most of them
    for modules and classes, which live as long as the process.
    """
    gc.collect()
    gc.freeze()
