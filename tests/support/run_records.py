"""A Dataverse with records of flow runs, for the resolver of `unknown` results."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from flow_contracts.result import FlowError, FlowResult, FlowRun, Status, Times
from flow_contracts.servicebus import ServiceBusUnavailable
from flow_worker.dataverse.client import DataverseClient
from flow_worker.delivery.port import Asker, Delivery, ReplyTarget, Settlements
from flow_worker.delivery.run_records import RunRecords
from flow_worker.delivery.run_resolver import Publisher, ResolverRules, RunResolver, Settling
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.pipeline.outcome import Reply

URL = "https://contoso.crm4.dynamics.com"
CALLED = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FINISHED = CALLED + timedelta(minutes=2)
WORKFLOW = "99999999-0000-4000-8000-000000000009"
RULES = ResolverRules(
    grace=timedelta(minutes=10),
    pause=timedelta(minutes=1),
    max_pause=timedelta(hours=1),
    max_age=timedelta(days=1),
    skew=timedelta(minutes=5),
    page_url="https://make.powerautomate.com/environments/E/flows/{flow}/runs/{run}",
)


def unknown(message_id: str = "m-1", correlation_id: str = "c-1", **changes: Any) -> FlowResult:
    """Return the result of a call without an answer."""
    return FlowResult(
        status=Status.UNKNOWN,
        flow="create-quote",
        error=FlowError(code="flow_no_answer", message="The connection broke."),
        attempts=1,
        run=FlowRun(tracking={"x-ms-request-id": "r"}),
        times=Times(accepted=CALLED - timedelta(seconds=1), started=CALLED, finished=FINISHED),
        correlation_id=correlation_id,
        request_message_id=message_id,
    ).model_copy(update=changes)


def row(run_id: str = "08585", status: str | None = "Succeeded", **columns: Any) -> dict[str, Any]:
    """Return a row of the table `flowrun`."""
    return {
        "name": run_id,
        "status": status,
        "starttime": (CALLED + timedelta(seconds=1)).isoformat().replace("+00:00", "Z"),
        "endtime": FINISHED.isoformat(),
        "errorcode": None,
        "errormessage": None,
        "clienttrackingid": "c-1",
        "parentrunid": None,
        "workflowid": WORKFLOW,
    } | columns


class Tokens:
    """The token of the worker's identity."""

    async def token(self, *, fresh: bool = False) -> str:
        """See `TokenSource.token`."""
        return "bearer"


@dataclass
class Organization:
    """A Dataverse behind httpx's mock transport."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    asked: list[httpx.URL] = field(default_factory=list)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer a query of `flowruns`."""
        self.asked.append(request.url)
        if self.body is not None or self.status != 200:
            return httpx.Response(self.status, headers=self.headers, content=self.body or b"")
        return httpx.Response(200, json={"value": self.rows})

    def records(self, now: Any) -> RunRecords:
        """Return the table of flow runs."""
        http = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        return RunRecords(DataverseClient(http, URL, Tokens(), request_seconds=5, now=now))


@dataclass
class ReplyQueue(Publisher):
    """The reply queue: it drops a second message with the same ID."""

    published: dict[str, FlowResult] = field(default_factory=dict)
    attempts: int = 0
    is_down: bool = False

    async def publish(self, reply: Reply) -> None:
        """See `Publisher.publish`."""
        self.attempts += 1
        if self.is_down:
            raise ServiceBusUnavailable("the namespace does not answer")
        key = reply.address.reply_key
        message = reply.result.to_message(
            reply.address.session_id, timedelta(hours=1), variant=reply.variant, reply_key=key
        )
        assert message.message_id is not None
        self.published.setdefault(message.message_id, FlowResult.from_message(message))


@dataclass
class OtherSinks(Settlements):
    """The other sinks of the requests."""

    opened: list[str] = field(default_factory=list)
    is_down: bool = False

    async def settled(self, delivery: Delivery, result: FlowResult) -> None:
        """See `Settlements.settled`."""
        if self.is_down:
            raise TemporarilyUnavailable("journal_unavailable", "the outbox does not answer")
        self.opened.append(delivery.message_id)


@dataclass
class Stage:
    """A resolver with all that it uses."""

    journal: Settling
    organization: Organization = field(default_factory=Organization)
    queue: ReplyQueue = field(default_factory=ReplyQueue)
    sinks: OtherSinks = field(default_factory=OtherSinks)
    now: datetime = FINISHED + timedelta(minutes=10)
    workflows: dict[str, str] = field(default_factory=dict)

    def resolver(self) -> RunResolver:
        """Return a resolver, as a new worker process has it."""
        return RunResolver(
            self.organization.records(lambda: self.now),
            self.journal,
            self.queue,
            self.sinks,
            RULES,
            flows={"create-quote"},
            workflows=self.workflows,
            now=lambda: self.now,
        )


def delivery(result: FlowResult | None, message_id: str = "m-1", **changes: Any) -> Delivery:
    """Return the delivery of a result to the resolver."""
    values: dict[str, Any] = {
        "sink": "settle",
        "message_id": message_id,
        "correlation_id": "c-1" if result is None else result.correlation_id,
        "flow": "create-quote",
        "request_queue": "flow-requests",
        "asker": Asker("t", "o"),
        "accepted": CALLED,
        "state": "ended",
        "result": result,
        "is_owner": True,
        "reply": ReplyTarget("flow-replies", "session-1"),
    }
    return Delivery(**values | changes)
