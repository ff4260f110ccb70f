"""Assembles the gateway from its parts; the only module that knows them all."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from flow_contracts.servicebus import ServiceBus
from flow_worker.access.build import build_entra, build_identity, build_privileges
from flow_worker.access.rights import Asserters, Rights
from flow_worker.access.statement import StatementSigner
from flow_worker.access.statement_key_files import open_signing_key
from flow_worker.azure_identity import ManagedIdentity
from flow_worker.broker_clock import BrokerClock
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.registry import Registry
from flow_worker.gateway import headers
from flow_worker.gateway.admission import GatewayAdmission
from flow_worker.gateway.api import Api
from flow_worker.gateway.callers import Callers
from flow_worker.gateway.changes import ChangeFeed
from flow_worker.gateway.cors import Cors
from flow_worker.gateway.edge import Edge
from flow_worker.gateway.events import EventStreams
from flow_worker.gateway.files import raise_file_limit
from flow_worker.gateway.flows import FlowCatalog
from flow_worker.gateway.health import GatewayHealth
from flow_worker.gateway.limits import ActiveRequests, CallerWaiters, RateLimiter
from flow_worker.gateway.measures import Measures
from flow_worker.gateway.probes import QueueProbe
from flow_worker.gateway.reader import ReplyReader, reconnection_log
from flow_worker.gateway.results import Results
from flow_worker.gateway.sending import GroupedSender
from flow_worker.gateway.server import HttpServer
from flow_worker.gateway.spans import Bounded, Server, Spans
from flow_worker.gateway.store.build import open_gateway_store
from flow_worker.gateway.store.port import GatewayStore
from flow_worker.gateway.submissions import Submissions
from flow_worker.gateway.unknown_results import UnknownResults
from flow_worker.gateway.uploads import Uploads
from flow_worker.gateway.waiters import Waiters
from flow_worker.runtime.journal_purge import JournalPurge
from flow_worker.runtime.periodic_task import PeriodicTask
from flow_worker.runtime.stop_signals import StopSignals
from flow_worker.runtime.supervisor import OnStop, Service, Supervisor
from flow_worker.service_bus import open_service_bus
from flow_worker.settings.gateway_process import GatewayProcess
from flow_worker.telemetry.health import serve_health
from flow_worker.telemetry.logs import GATEWAY, log
from flow_worker.telemetry.opening import Telemetry, open_telemetry

_log = logging.getLogger(__name__)

_ALLOCATIONS_PER_COLLECTION: Final = 20_000
"""Thousands of waiting requests are objects that live long, and each collection looks at the young ones again."""
_READERS: Final = 4
"""Receivers of the reply queue in each replica."""


async def run(settings: GatewayProcess, on_stop: OnStop = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT (Ctrl-C on Windows), then drain and return.

    `on_stop`: see `Supervisor`. Raises what `assembled` raises, and the error of a service that failed.
    """
    signals = StopSignals(on_stop)
    try:
        async with assembled(settings, on_stop=on_stop) as gateway:
            signals.supervisor = gateway.supervisor
            gc.collect()
            gc.freeze()
            gc.set_threshold(_ALLOCATIONS_PER_COLLECTION, 20, 50)
            sentence = f"The gateway takes requests at {gateway.url}."
            log(_log, logging.INFO, "gateway.started", sentence, url=gateway.url)
            await gateway.supervisor.run()
    except asyncio.CancelledError:
        if not signals.stopped_start:
            raise
        log(_log, logging.INFO, "supervisor.stopped", "The gateway stopped while it started.")


@dataclass(frozen=True, slots=True)
class Gateway:
    """An assembled gateway, whose socket is open."""

    supervisor: Supervisor
    url: str
    """The URL for a caller on this machine."""


@asynccontextmanager
async def assembled(settings: GatewayProcess, *, on_stop: OnStop = lambda _: None) -> AsyncIterator[Gateway]:
    """Open everything that the gateway needs, and yield it, ready to run.

    Raises `InvalidSettings` if the settings can never work, and `CannotListen`.
    """
    raise_file_limit(settings.gateway.limits.max_connections)
    clock = BrokerClock()
    health = GatewayHealth()
    options = settings.gateway
    async with AsyncExitStack() as stack:
        telemetry = await stack.enter_async_context(open_telemetry(GATEWAY))
        # Next, so that liveness probes get an answer while the other parts open.
        endpoint = serve_health(
            health,
            options.health_host,
            options.health_port,
            setting="gateway.health_port",
            status_callers=None,
            metrics_page=telemetry.page,
        )
        await stack.enter_async_context(endpoint)
        bus = await stack.enter_async_context(
            open_service_bus(settings.servicebus, client_id=settings.identity.client_id, evidence=clock)
        )
        store = await stack.enter_async_context(
            open_gateway_store(
                options,
                health.journal,
                client_id=settings.identity.client_id,
                metrics=telemetry.metrics,
                now=clock.now,
            )
        )
        parts = _Parts(settings, bus, store, clock, telemetry, health)
        server = await parts.server(stack)
        await server.open()
        stack.push_async_callback(server.close)
        supervisor = Supervisor(
            parts.services(server),
            health,
            grace_seconds=settings.shutdown_grace_seconds,
            stop_seconds=settings.stop_seconds,
            on_stop=on_stop,
            program="gateway",
        )
        host, port = server.address
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - only compared
        yield Gateway(supervisor, f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}")


class _Parts:
    """Builds the parts of one gateway."""

    def __init__(
        self,
        settings: GatewayProcess,
        bus: ServiceBus,
        store: GatewayStore,
        clock: BrokerClock,
        telemetry: Telemetry,
        health: GatewayHealth,
    ) -> None:
        self._settings = settings
        self._options = settings.gateway
        self._limits = settings.gateway.limits
        self._bus = bus
        self._store = store
        self._clock = clock
        self._now = clock.now
        self._telemetry = telemetry
        self._health = health
        self._measures = Measures(telemetry.metrics)
        bounded = Bounded(settings.flows, Server(*settings.servicebus.server), self._options.public_url)
        self._spans = Spans(telemetry.tracer, bounded, links_only=settings.telemetry.parent == "link")
        self._waiters = Waiters(max_count=self._limits.max_waiters)
        self._active = ActiveRequests(self._limits.max_active_requests)
        self._results = Results(store, self._waiters, self._active, CallerWaiters(self._limits.max_waiters_per_caller))
        self._uploads = Uploads(self._limits.body_seconds, self._limits.max_uploads_per_caller)
        self._outages = reconnection_log(self._options.reply_queue)
        self._queue_probe = QueueProbe(bus, self._options.request_queue, health.lane(self._options.request_queue))

    async def server(self, stack: AsyncExitStack) -> HttpServer:
        """Return the HTTP server, which is not open yet."""
        rights = await self._rights(stack)
        registry = Registry(self._settings.flows)
        checks = await stack.enter_async_context(InputChecks(self._settings.flows, self._settings.input_checks))
        entra = await stack.enter_async_context(build_entra(self._settings, self._now, self._telemetry.metrics))
        admission = GatewayAdmission(
            registry,
            rights,
            checks,
            checks_privileges=self._options.check_privileges,
            explains=self._settings.explain_refusals,
        )
        submissions = await self._submissions(admission)
        catalog = FlowCatalog(self._settings.flows, registry, admission)
        api = self._api(Callers(entra, rights, self._now), submissions, catalog)
        edge = self._edge()
        server = HttpServer(
            api.application(edge),
            self._options,
            on_stop=lambda: self._drain(edge),
            drain=submissions.drain,
            counted=self._measures.problem,
        )
        self._measures.begin()
        self._measures.watch(server, self._waiters, submissions, self._health)
        return server

    def services(self, server: HttpServer) -> list[Service]:
        """Return the services of the gateway."""
        every = self._options.store.purge_interval_seconds
        # Only by a time that the broker has proven: a clock that is ahead would delete results that somebody waits for.
        purge = JournalPurge(
            lambda: self._store.purge(self._now()), lambda: self._clock.has_evidence, every_seconds=every
        )
        return [
            server,
            ChangeFeed(self._store, self._waiters),
            *(self._reader(number) for number in range(_READERS)),
            PeriodicTask("request queue check", self._queue_probe.check, every_seconds=QueueProbe.EVERY_SECONDS),
            self._unknown_results(),
            PeriodicTask("store purge", purge.purge, every_seconds=0.0, pause_seconds=purge.pause_seconds),
        ]

    def _unknown_results(self) -> PeriodicTask:
        unknown = UnknownResults(self._options.reply_queue, bus=self._bus, store=self._store, waiters=self._waiters)
        return PeriodicTask(
            "unknown results",
            unknown.recover,
            every_seconds=UnknownResults.EVERY_SECONDS,
            pause_seconds=unknown.pause_seconds,
        )

    def _drain(self, edge: Edge) -> None:
        edge.is_draining = True
        self._results.drain()
        self._uploads.drain()

    async def _rights(self, stack: AsyncExitStack) -> Rights:
        claims = self._settings.claims
        asserters = Asserters(frozenset(claims.asserters), claims.asserter_role)
        url = self._settings.dataverse.url
        if url is None or not self._options.check_privileges:
            return Rights(asserters, None)
        identity: ManagedIdentity = await stack.enter_async_context(
            build_identity(self._settings, self._telemetry.metrics)
        )
        privileges = await stack.enter_async_context(build_privileges(self._settings, url, identity, self._now))
        known = {flow.privilege for flow in self._settings.flows.values() if flow.privilege is not None}
        return Rights(asserters, privileges, known_privileges=known)

    async def _submissions(self, admission: GatewayAdmission) -> Submissions:
        statements = self._settings.statements
        signer = StatementSigner(
            await open_signing_key(statements),
            issuer=statements.issuer,
            queue=self._options.request_queue,
            lifetime_seconds=statements.lifetime_seconds,
            binding_claim=self._settings.claims.binding_claim,
            now=self._now,
        )
        return Submissions(
            self._store,
            GroupedSender(self._bus, self._options.request_queue, self._store.sync),
            signer,
            admission,
            queue=self._options.request_queue,
            seconds=self._limits.submit_seconds,
            now=self._now,
            spans=self._spans,
            on_sent=self._queue_probe.sent,
        )

    def _api(self, callers: Callers, submissions: Submissions, catalog: FlowCatalog) -> Api:
        limits = self._limits
        streams = EventStreams(
            self._results,
            heartbeat_seconds=limits.heartbeat_seconds,
            max_seconds=limits.max_stream_seconds,
            write_seconds=limits.write_seconds,
            now=self._now,
        )
        return Api(
            limits,
            callers,
            submissions,
            self._results,
            streams,
            catalog,
            RateLimiter(limits.submissions_per_second, limits.submission_burst, time.monotonic),
            RateLimiter(limits.reads_per_second, limits.read_burst, time.monotonic),
            self._uploads,
            self._base_url,
            self._now,
        )

    def _edge(self) -> Edge:
        return Edge(
            Cors(self._options.allowed_origins),
            self._active,
            base_url=self._base_url,
            write_seconds=self._limits.write_seconds,
            measured=self._measures.request,
            counted=self._measures.problem,
            spans=self._spans,
        )

    def _base_url(self, request: web.Request) -> str:
        """Return the gateway's URL as its callers write it."""
        return self._options.public_url or headers.own_url(request)

    def _reader(self, number: int) -> ReplyReader:
        queue = self._options.reply_queue
        return ReplyReader(
            f"{queue}#{number}",
            queue,
            bus=self._bus,
            store=self._store,
            waiters=self._waiters,
            health=self._health.lane(queue),
            reconnect_max_seconds=self._settings.servicebus.reconnect_max_seconds,
            outages=self._outages,
            metrics=self._telemetry.metrics,
            spans=self._spans,
            now=self._now,
        )
