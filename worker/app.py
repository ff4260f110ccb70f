"""The one place where the worker's parts are joined."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

from worker.access.keys import IssuerKeys
from worker.access.tokens import EntraAuthority
from worker.crew import Crew
from worker.flows.identity import FlowIdentity
from worker.flows.invoker import Invoker, http_client
from worker.flows.registry import Registry
from worker.handler import Handler
from worker.health import Health, served
from worker.lane import Lane
from worker.logs import log
from worker.replies import Replies
from worker.servicebus import ServiceBus
from worker.settings import Settings

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
        handler = _handler(
            settings,
            await stack.enter_async_context(_invoker(settings)),
            await stack.enter_async_context(_keys(settings)),
        )
        replies = Replies(
            bus,
            time_to_live=timedelta(seconds=settings.replies.time_to_live_seconds),
            publish_seconds=settings.replies.publish_seconds,
        )
        lanes = [
            Lane(
                f"{queue.name}#{number}",
                queue.name,
                bus=bus,
                journey=handler,
                replies=replies,
                health=health.lane(queue.name),
                reconnect_max_seconds=settings.servicebus.reconnect_max_seconds,
            )
            for queue in settings.request_queues
            for number in range(queue.lanes)
        ]
        yield Crew(lanes, health, grace_seconds=settings.shutdown_grace_seconds)


def _handler(settings: Settings, invoker: Invoker, keys: IssuerKeys) -> Handler:
    authority = EntraAuthority(
        keys,
        authority=settings.authority,
        tenants=settings.claims.tenants,
        audiences=settings.claims.audiences,
        skew_seconds=settings.claims.clock_skew_seconds,
    )
    return Handler(
        authority=authority,
        registry=Registry(settings.flows),
        caller=invoker,
        reply_queues=settings.replies.queues,
        default_reply_queue=settings.replies.default_queue,
        retry_pause_seconds=settings.retry_pause_seconds,
        max_deliveries=settings.max_deliveries,
        now=lambda: datetime.now(UTC),
    )


@asynccontextmanager
async def _invoker(settings: Settings) -> AsyncIterator[Invoker]:
    identity = FlowIdentity(
        settings.facts.flow_scope,
        client_id=settings.identity.client_id,
        deadline_seconds=settings.identity.token_seconds,
    )
    invoker = Invoker(
        identity,
        connect_seconds=settings.http.connect_seconds,
        max_connections=settings.http.max_connections,
        keepalive_seconds=settings.http.keepalive_seconds,
        max_response_bytes=settings.http.max_response_bytes,
    )
    async with identity, invoker:
        yield invoker


@asynccontextmanager
async def _keys(settings: Settings) -> AsyncIterator[IssuerKeys]:
    claims = settings.claims
    client = http_client(connect_seconds=settings.http.connect_seconds, max_connections=8, keepalive_seconds=15)
    async with client:
        yield IssuerKeys(
            client,
            lifetime_seconds=claims.keys_lifetime_seconds,
            refresh_seconds=claims.keys_refresh_seconds,
            cooldown_seconds=claims.unknown_key_cooldown_seconds,
            fetch_seconds=claims.fetch_seconds,
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
