"""Runs the gateway's HTTP side on a real socket, with a store in memory and without Service Bus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import httpx
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import Tracer

from flow_contracts.message import Message
from flow_worker.access.authorities import Evidence, ProvenSender
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Asserters, Privileges, Rights
from flow_worker.access.statement import StatementSigner
from flow_worker.access.statement_keys import new_signing_key
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.registry import Registry
from flow_worker.gateway import headers
from flow_worker.gateway.admission import GatewayAdmission
from flow_worker.gateway.api import Api
from flow_worker.gateway.callers import Callers
from flow_worker.gateway.cors import Cors
from flow_worker.gateway.edge import Edge
from flow_worker.gateway.events import EventStreams
from flow_worker.gateway.flows import FlowCatalog
from flow_worker.gateway.limits import ActiveRequests, CallerWaiters, RateLimiter
from flow_worker.gateway.measures import Measures
from flow_worker.gateway.results import Results
from flow_worker.gateway.server import HttpServer
from flow_worker.gateway.spans import Bounded, Server, Spans
from flow_worker.gateway.store.port import StoredResult
from flow_worker.gateway.submissions import Submissions
from flow_worker.gateway.uploads import Uploads
from flow_worker.gateway.waiters import Waiters
from flow_worker.settings import GatewayLimits, GatewaySettings, InputCheckSettings
from flow_worker.settings.gateway_process import GatewayFlow
from flow_worker.telemetry.metrics import Metrics
from tests.support.memory_gateway_store import MemoryGatewayStore

TENANT = "11111111-1111-1111-1111-111111111111"
QUEUE = "flow-requests-gateway"
ORIGIN = "https://contoso.crm4.dynamics.com"
USERS = {
    "ada": "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa",
    "bob": "bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb",
    "service": "cccccccc-cccc-cccc-cccc-cccccccccccc",
}
FLOWS: Mapping[str, Mapping[str, object]] = {
    "create-quote": {
        "role": "Quotes.Create",
        "title": "Create a quote",
        "input_schema": {
            "type": ["object", "null"],
            "properties": {"customer": {"type": "string"}},
            "additionalProperties": True,
        },
    },
    "free-form": {"role": "Quotes.Create"},
    "admin-only": {"role": "Admins"},
}


class FakeAuthority:
    """Accepts tokens of the form `user~role~role`.

    `down` means that the keys are away, and `waiting` that the issuer hangs.
    """

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        assert evidence.claim is not None
        user, *roles = evidence.claim.get_secret_value().split("~")
        if user == "down":
            raise TemporarilyUnavailable("keys_unavailable", "the issuer is away")
        if user == "waiting":
            await asyncio.sleep(60)
        if user == "boom":
            raise RuntimeError("a secret text of an internal error")
        if user.startswith("claim_"):
            raise Refused(user, "The claim is refused.")
        if user not in USERS:
            raise Refused("claim_invalid", "The claim is not valid.")
        kind: Literal["user", "app"] = "app" if user == "service" else "user"
        principal = Principal(TENANT, USERS[user], kind, frozenset(roles or ["Quotes.Create"]), "entra")
        return ProvenSender(principal, {"azp": "client"}, int(time.time()) + 3600)


@dataclass
class FakeQueue:
    """Takes messages; raises `failure` if one is set, and takes `seconds`."""

    messages: list[Message] = field(default_factory=list)
    failure: Exception | None = None
    seconds: float = 0.0
    max_bytes: int | None = None
    begun: int = 0

    async def send(self, queue: str, message: Message) -> None:
        assert queue == QUEUE
        self.begun += 1
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        self.messages.append(message)

    def max_message_bytes(self, queue: str) -> int | None:
        return self.max_bytes


@dataclass
class HttpGateway:
    """A running HTTP side."""

    server: HttpServer
    store: MemoryGatewayStore
    queue: FakeQueue
    results: Results
    submissions: Submissions
    task: asyncio.Task[None]

    @property
    def url(self) -> str:
        host, port = self.server.address
        return f"http://{host}:{port}"

    def client(self, user: str | None = "ada", **headers: str) -> httpx.AsyncClient:
        """Return a client of a user; None sends no token."""
        token = {} if user is None else {"Authorization": f"Bearer {user}"}
        return httpx.AsyncClient(base_url=self.url, headers=token | headers, timeout=20)

    async def finish(self, request_id: str, status: str = "succeeded") -> bytes:
        """Store a result, as the reader of the reply queue does, and wake the waiters. Return the document."""
        body = f'{{"status":"{status}","correlation_id":"{request_id}","request_message_id":"{request_id}"}}'.encode()
        await self.store.put_result(request_id, StoredResult(body, datetime.now(UTC)))
        self.results.waiters.wake([request_id])
        return body


@asynccontextmanager
async def running_http_gateway(
    flows: Mapping[str, Mapping[str, object]] = FLOWS,
    *,
    privileges: Privileges | None = None,
    explains: bool = False,
    metrics: Metrics | None = None,
    tracer: Tracer | None = None,
    **limits: Any,
) -> AsyncIterator[HttpGateway]:
    """Run the HTTP side on a free port. `limits`: settings of `gateway.limits`."""
    options = GatewaySettings(
        port=0,
        allowed_origins=(ORIGIN, "https://*.powerapps.example.com"),
        limits=GatewayLimits(**{"body_seconds": 1, "submission_burst": 1000, "read_burst": 1000} | limits),
    )
    settings = {name: GatewayFlow.model_validate(flow) for name, flow in flows.items()}
    store, queue = MemoryGatewayStore(), FakeQueue()
    async with InputChecks(settings, InputCheckSettings()) as checks:
        parts = _Parts(options, settings, store, queue, privileges, explains, checks, metrics, tracer)
        await parts.server.open()
        task = asyncio.create_task(parts.server.run())
        try:
            yield HttpGateway(parts.server, store, queue, parts.results, parts.submissions, task)
        finally:
            parts.server.interrupt()
            await task
            await parts.server.close()


class _Parts:
    def __init__(
        self,
        options: GatewaySettings,
        flows: Mapping[str, GatewayFlow],
        store: MemoryGatewayStore,
        queue: FakeQueue,
        privileges: Privileges | None,
        explains: bool,
        checks: InputChecks,
        metrics: Metrics | None,
        tracer: Tracer | None,
    ) -> None:
        limits = options.limits
        self.measures = Measures(metrics or Metrics(NoOpMeterProvider().get_meter("test")))
        self.spans = Spans(tracer, Bounded(flows, Server("bus.example", 5671)))
        rights = Rights(Asserters([USERS["service"]]), privileges, known_privileges=["prvCreatenew_quote"])
        registry = Registry(flows)
        admission = GatewayAdmission(
            registry, rights, checks, checks_privileges=privileges is not None, explains=explains
        )
        active = ActiveRequests(limits.max_active_requests)
        waiters = Waiters(max_count=limits.max_waiters)
        self.results = Results(store, waiters, active, CallerWaiters(limits.max_waiters_per_caller))
        signer = StatementSigner(
            new_signing_key(), issuer="test", queue=QUEUE, lifetime_seconds=60, binding_claim="nonce", now=_now
        )
        self.submissions = Submissions(
            store,
            queue,
            signer,
            admission,
            queue=QUEUE,
            seconds=limits.submit_seconds,
            now=_now,
            spans=self.spans,
            on_sent=lambda _: None,
        )
        streams = EventStreams(
            self.results,
            heartbeat_seconds=limits.heartbeat_seconds,
            max_seconds=limits.max_stream_seconds,
            write_seconds=limits.write_seconds,
            now=_now,
        )
        uploads = Uploads(limits.body_seconds, limits.max_uploads_per_caller)
        api = Api(
            limits,
            Callers(FakeAuthority(), rights, _now),
            self.submissions,
            self.results,
            streams,
            FlowCatalog(flows, registry, admission),
            RateLimiter(limits.submissions_per_second, limits.submission_burst, time.monotonic),
            RateLimiter(limits.reads_per_second, limits.read_burst, time.monotonic),
            uploads,
            headers.own_url,
            _now,
        )
        edge = Edge(
            Cors(options.allowed_origins),
            active,
            base_url=api.base_url,
            write_seconds=limits.write_seconds,
            measured=self.measures.request,
            counted=self.measures.problem,
            spans=self.spans,
        )

        def drain() -> None:
            edge.is_draining = True
            self.results.drain()
            uploads.drain()

        self.server = HttpServer(
            api.application(edge),
            options,
            on_stop=drain,
            drain=self.submissions.drain,
            counted=self.measures.problem,
        )


def _now() -> datetime:
    return datetime.now(UTC) + timedelta(0)
