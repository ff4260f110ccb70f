"""The one place where the worker's parts are joined."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from flow_worker import clock
from flow_worker.access.build import Access, build_access, build_identity
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.flows.invoker import Invoker
from flow_worker.flows.limits import CallLimiter, FlowLimits
from flow_worker.journal import Journal
from flow_worker.journal.build import open_journal
from flow_worker.pipeline import decode
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.conclude import Conclusions, Rules
from flow_worker.pipeline.handler import Handler, Reader
from flow_worker.runtime.dead_letter_watch import DeadLetterWatch
from flow_worker.runtime.dispatcher import Dispatcher
from flow_worker.runtime.lane import Lane
from flow_worker.runtime.outbox import Outbox
from flow_worker.runtime.periodic_task import PeriodicTask
from flow_worker.runtime.replies import Replies
from flow_worker.runtime.schedule import Schedule
from flow_worker.runtime.sole_sender import require_sole_sender
from flow_worker.runtime.supervisor import Supervisor
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import Settings
from flow_worker.telemetry.health import Health, serve_health
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT (Ctrl-C on Windows), drain, return."""
    async with assembled(settings) as supervisor:
        _on_stop_signal(supervisor.stop)
        log(
            _log,
            logging.INFO,
            "worker.started",
            "Working.",
            queues=", ".join(q.name for q in settings.request_queues),
        )
        await supervisor.run()


@asynccontextmanager
async def assembled(settings: Settings) -> AsyncIterator[Supervisor]:
    """A crew with all it needs, ready to run."""
    health = Health()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve_health(health, settings.health.host, settings.health.port))
        bus = await stack.enter_async_context(
            open_service_bus(settings.servicebus, client_id=settings.identity.client_id)
        )
        await require_sole_sender(bus, settings.continuations.queue, settings.continuations.sole_sender)
        journal = await stack.enter_async_context(open_journal(settings.journal, client_id=settings.identity.client_id))
        identity = await stack.enter_async_context(build_identity(settings))
        invoker = await stack.enter_async_context(_invoker(settings, identity))
        access = await stack.enter_async_context(build_access(settings, identity))
        handler = _handler(settings, invoker, access, journal)
        outbox = Outbox(bus)
        replies = Replies(
            outbox,
            time_to_live=timedelta(seconds=settings.replies.time_to_live_seconds),
            publish_seconds=settings.replies.publish_seconds,
        )
        continuations = settings.continuations
        schedule = Schedule(outbox, continuations.queue, schedule_seconds=continuations.schedule_seconds)
        dispatcher = Dispatcher(replies, schedule, handler.published)
        lanes = [
            Lane(
                f"{queue}#{number}",
                queue,
                bus=bus,
                journey=handler,
                read=read,
                dispatcher=dispatcher,
                health=health.lane(queue),
                reconnect_max_seconds=settings.servicebus.reconnect_max_seconds,
            )
            for queue, read, count in _queues(settings)
            for number in range(count)
        ]
        watches = [
            PeriodicTask(
                f"dead letters of {queue}",
                DeadLetterWatch(
                    queue,
                    read,
                    bus=bus,
                    handler=handler,
                    dispatcher=dispatcher,
                    max_age=timedelta(seconds=settings.journal.retention_seconds / 2),
                    now=clock.now,
                ).answer_all,
                every_seconds=settings.dead_letters.interval_seconds,
            )
            for queue, read, _ in _queues(settings)
            if settings.dead_letters.watch
        ]
        purge = PeriodicTask("journal purge", journal.purge, every_seconds=settings.journal.purge_interval_seconds)
        yield Supervisor([*lanes, *watches, purge], health, grace_seconds=settings.shutdown_grace_seconds)


def _queues(settings: Settings) -> list[tuple[str, Reader, int]]:
    """Each queue the worker listens to, how its messages are read, and by how many lanes."""
    requests = [(queue.name, decode.reader_of(queue), queue.lanes) for queue in settings.request_queues]
    return [*requests, (settings.continuations.queue, decode.continuation, settings.continuations.lanes)]


def _handler(settings: Settings, invoker: Invoker, access: Access, journal: Journal) -> Handler:
    rules = Rules(settings.replies.queues, settings.replies.default_queue, settings.retry)
    admission = Admission(
        authorities=access.authorities,
        rights=access.rights,
        registry=access.registry,
        reply_queues=settings.replies.queues,
        binding_claim=settings.claims.binding_claim,
    )
    return Handler(
        admission=admission,
        registry=access.registry,
        caller=invoker,
        limiter=_call_limiter(settings),
        journal=journal,
        conclusions=Conclusions(journal, rules, clock.now),
        retry=settings.retry,
        lease_margin_seconds=settings.journal.lease_margin_seconds,
        now=clock.now,
    )


def _call_limiter(settings: Settings) -> CallLimiter:
    limits = {
        name: FlowLimits(**(flow.limits or settings.limits).model_dump()) for name, flow in settings.flows.items()
    }
    return CallLimiter(limits, clock.now, lanes={queue: lanes for queue, _, lanes in _queues(settings)})


def _invoker(settings: Settings, identity: ManagedIdentity) -> Invoker:
    return Invoker(
        identity.tokens(settings.facts.flow_scope),
        connect_seconds=settings.http.connect_seconds,
        max_connections=settings.http.max_connections,
        keepalive_seconds=settings.http.keepalive_seconds,
        status_seconds=settings.http.status_seconds,
        max_response_bytes=settings.http.max_response_bytes,
    )


def _on_stop_signal(stop: Callable[[], None]) -> None:
    """SIGTERM and SIGINT, or what Windows has of them, call `stop` in the event loop."""
    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows: no signals in the loop; the handler runs between bytecodes
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
