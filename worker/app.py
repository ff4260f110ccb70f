"""The one place where the worker's parts are joined."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from worker import clock, intake
from worker.admission import Admission
from worker.chore import Chore
from worker.conclusion import Conclusions, Rules
from worker.crew import Crew
from worker.deadletter_watch import DeadLetterWatch
from worker.flows.invoker import Invoker
from worker.flows.pacing import Limits, Pacing
from worker.gate import Gate, gate_of, identity_of
from worker.handler import Handler, Reader
from worker.health import Health, served
from worker.identity import ManagedIdentity
from worker.journal import Journal
from worker.journal.choice import open_journal
from worker.lane import Lane
from worker.logs import log
from worker.outbox import Outbox
from worker.replies import Replies
from worker.schedule import Schedule
from worker.servicebus import ServiceBus
from worker.settings import Settings
from worker.sole_sender import require_sole_sender

_log = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT (Ctrl-C on Windows), drain, return."""
    async with assembled(settings) as crew:
        _on_stop_signal(crew.stop)
        log(
            _log,
            logging.INFO,
            "worker.started",
            "Working.",
            queues=", ".join(q.name for q in settings.request_queues),
        )
        await crew.run()


@asynccontextmanager
async def assembled(settings: Settings) -> AsyncIterator[Crew]:
    """A crew with all it needs, ready to run."""
    health = Health()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(served(health, settings.health.host, settings.health.port))
        bus = await stack.enter_async_context(ServiceBus(settings.servicebus, client_id=settings.identity.client_id))
        await require_sole_sender(bus, settings.continuations.queue, settings.continuations.sole_sender)
        journal = await stack.enter_async_context(open_journal(settings.journal, client_id=settings.identity.client_id))
        identity = await stack.enter_async_context(identity_of(settings))
        invoker = await stack.enter_async_context(_invoker(settings, identity))
        gate = await stack.enter_async_context(gate_of(settings, identity))
        handler = _handler(settings, invoker, gate, journal)
        outbox = Outbox(bus)
        replies = Replies(
            outbox,
            time_to_live=timedelta(seconds=settings.replies.time_to_live_seconds),
            publish_seconds=settings.replies.publish_seconds,
        )
        continuations = settings.continuations
        schedule = Schedule(outbox, continuations.queue, schedule_seconds=continuations.schedule_seconds)
        lanes = [
            Lane(
                f"{queue}#{number}",
                queue,
                bus=bus,
                journey=handler,
                read=read,
                replies=replies,
                schedule=schedule,
                health=health.lane(queue),
                reconnect_max_seconds=settings.servicebus.reconnect_max_seconds,
            )
            for queue, read, count in _queues(settings)
            for number in range(count)
        ]
        watches = [
            Chore(
                f"dead letters of {queue}",
                DeadLetterWatch(
                    queue,
                    read,
                    bus=bus,
                    handler=handler,
                    replies=replies,
                    schedule=schedule,
                    oldest=timedelta(seconds=settings.journal.retention_seconds / 2),
                ).look,
                every_seconds=settings.dead_letters.interval_seconds,
            )
            for queue, read, _ in _queues(settings)
            if settings.dead_letters.watch
        ]
        purge = Chore("journal purge", journal.purge, every_seconds=settings.journal.purge_interval_seconds)
        yield Crew([*lanes, *watches, purge], health, grace_seconds=settings.shutdown_grace_seconds)


def _queues(settings: Settings) -> list[tuple[str, Reader, int]]:
    """Each queue the worker listens to, how its messages are read, and by how many lanes."""
    requests = [(queue.name, intake.reader_of(queue), queue.lanes) for queue in settings.request_queues]
    return [*requests, (settings.continuations.queue, intake.continuation, settings.continuations.lanes)]


def _handler(settings: Settings, invoker: Invoker, gate: Gate, journal: Journal) -> Handler:
    rules = Rules(settings.replies.queues, settings.replies.default_queue, settings.retry)
    admission = Admission(
        authority=gate.authority,
        rights=gate.rights,
        registry=gate.registry,
        reply_queues=settings.replies.queues,
        binding_claim=settings.claims.binding_claim,
    )
    return Handler(
        admission=admission,
        registry=gate.registry,
        caller=invoker,
        pacing=_pacing(settings),
        journal=journal,
        conclusions=Conclusions(journal, rules, clock.now),
        retry=settings.retry,
        lease_slack_seconds=settings.journal.lease_slack_seconds,
        now=clock.now,
    )


def _pacing(settings: Settings) -> Pacing:
    limits = {name: Limits(**(flow.pacing or settings.pacing).model_dump()) for name, flow in settings.flows.items()}
    return Pacing(limits, clock.now, lanes={queue: lanes for queue, _, lanes in _queues(settings)})


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
