"""Builds a handler with a real journal, a scripted flow and a clock that the test sets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue, SecretStr

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import CONTRACT
from flow_contracts.servicebus import BeforeSend, unconditionally
from flow_worker.access.authorities import Evidence, ProvenSender
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Asserters, Rights
from flow_worker.errors import Refused
from flow_worker.flows.answer import Answer, decode_body
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.limits import CallLimiter, FlowLimits
from flow_worker.flows.registry import Flow, Registry
from flow_worker.flows.status_url import StatusHosts
from flow_worker.journal import Journal
from flow_worker.pipeline import decode
from flow_worker.pipeline.authorize import Admission
from flow_worker.pipeline.conclude import ConclusionRules, Conclusions
from flow_worker.pipeline.ending import Endings
from flow_worker.pipeline.handler import Handler
from flow_worker.pipeline.outcome import Continue, Outcome, Reply
from flow_worker.pipeline.recall import Recall
from flow_worker.pipeline.seal import Seal, SealKey
from flow_worker.pipeline.unproven import UnprovenContinuations
from flow_worker.pipeline.unreadable import UnreadableContinuations
from flow_worker.settings import FlowSettings, InputCheckSettings, LimitSettings, RetrySettings

UNREADABLE_SECONDS = 600.0
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
CONTINUATIONS = "flow-continuations"
SEAL = Seal(CONTINUATIONS, SealKey(b"the key of the tests" * 2), valid_for=timedelta(days=7))
READ_CONTINUATION = decode.continuations_of(SEAL)
CLAIM = "a-claim-that-must-not-be-seen"
ADA = Principal(tenant="t", oid="ada", kind="user", roles=frozenset({"Quotes.Create"}), authority="entra")
SCHEMA: dict[str, JsonValue] = {"type": "object", "required": ["customer"], "properties": {"n": {"type": "number"}}}
RUN_HEADERS = {"x-ms-workflow-run-id": "08585", "x-ms-request-id": "eu:1"}


@dataclass
class KnownSenders:
    """An authority that accepts one claim; with `instead`, it raises that error for any claim."""

    instead: Exception | None = None
    principal: Principal = ADA
    enqueue_times: list[datetime] = field(default_factory=list)

    async def authenticate(self, evidence: Evidence) -> ProvenSender:
        claim = evidence.claim
        self.enqueue_times.append(evidence.enqueued_at)
        if self.instead:
            raise self.instead
        if claim is None or claim.get_secret_value() != CLAIM:
            raise Refused("claim_invalid", "no")
        return ProvenSender(self.principal, {})


@dataclass
class ScriptedFlow:
    """A caller with scripted answers, which records its calls. Without an answer, the call never ends."""

    answer: Answer | Exception | None = None
    token_error: Exception | None = None
    answers: list[Answer | Exception] = field(default_factory=list)
    """The answers to the first calls, in order; `answer` answers all further ones."""
    polls: list[str] = field(default_factory=list)
    calls: list[Mapping[str, object]] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def token(self, *, fresh: bool = False) -> str:
        if self.token_error:
            raise self.token_error
        return "fresh bearer" if fresh else "bearer"

    async def invoke(
        self, flow: Flow, input_: JsonValue, *, token: str, correlation_id: str, traceparent: str | None
    ) -> Answer:
        self.calls.append(
            {"flow": flow.name, "input": input_, "token": token, "id": correlation_id, "trace": traceparent}
        )
        return await self._next_answer()

    async def poll(self, flow: Flow, status_url: str, *, token: str) -> Answer:
        self.polls.append(status_url)
        return await self._next_answer()

    async def _next_answer(self) -> Answer:
        self.called.set()
        answer = self.answers.pop(0) if self.answers else self.answer
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        return answer


def flow_answer(
    status: int,
    body: object = None,
    content_type: str | None = "application/json",
    run: str | None = "08585",
    **more: str,
) -> Answer:
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = RUN_HEADERS if run else {}
    return Answer(status, decode_body(raw, content_type), run, headers, **more)


def flow_settings(*, idempotent: bool = False, schema: dict[str, JsonValue] | None = None) -> FlowSettings:
    return FlowSettings(
        url=SecretStr("https://flow.example/secret"), role="Quotes.Create", idempotent=idempotent, input_schema=schema
    )


RETRY = RetrySettings(max_calls=3, max_age_seconds=600, base_seconds=2, max_pause_seconds=60, poll_seconds=20)
MAX_OUTAGE = timedelta(seconds=300)
FLOWS = {
    "quote": flow_settings(schema=SCHEMA),
    "again": flow_settings(idempotent=True),
    "admin": FlowSettings(url=SecretStr("https://flow.example/x"), role="Admin.All"),
    "typed-admin": FlowSettings(url=SecretStr("https://flow.example/x"), role="Admin.All", input_schema=SCHEMA),
    "bound-admin": FlowSettings(url=SecretStr("https://flow.example/x"), role="Admin.All", bind_claim=True),
}


REGISTRY = Registry(FLOWS, StatusHosts(("flow.example",)))
"""Made once: it compiles the schemas of the inputs."""


@dataclass
class Clock:
    """A clock that stands still until the test sets it."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Worker:
    """A handler with a real journal, and a clock that the test sets."""

    journal: Journal
    clock: Clock
    limits: LimitSettings = field(default_factory=LimitSettings)
    reached: Clock | None = None
    """The time that the broker has provably reached; by default the clock's."""

    def __post_init__(self) -> None:
        # One limiter for all handlers of this worker: its counts must survive from one message to the next.
        limits = FlowLimits(**self.limits.model_dump())
        self._limiter = CallLimiter(dict.fromkeys(FLOWS, limits), self.clock)

    def handler(self, flow: ScriptedFlow, senders: KnownSenders | None = None) -> Handler:
        queues = ("flow-replies", "other-replies")
        rules = ConclusionRules(queues, "flow-replies", RETRY, MAX_OUTAGE)
        conclusions = Conclusions(self.journal, REGISTRY, rules, self.clock)
        recall = Recall(self.journal, conclusions, lease_margin_seconds=30, now=self.clock)
        return Handler(
            admission=Admission(
                authorities={"flow-requests": senders or KnownSenders()},
                rights=Rights(Asserters(), None),
                registry=REGISTRY,
                input_checks=InputChecks(FLOWS, InputCheckSettings()),
                reply_queues=queues,
                binding_claim="nonce",
            ),
            recall=recall,
            endings=Endings(recall, conclusions),
            caller=flow,
            limiter=self._limiter,
            conclusions=conclusions,
            unreadable=UnreadableContinuations(
                self.journal, rules, wait_seconds=UNREADABLE_SECONDS, lease_seconds=30, now=self.clock
            ),
            unproven=UnprovenContinuations(self.journal, wait_seconds=UNREADABLE_SECONDS, now=self.clock),
            now=self.clock,
            reached=self.reached,
        )

    async def mark_published(self, reply: Reply) -> None:
        """Note in the journal that the reply queue accepted the result."""
        assert reply.journalled is not None
        await self.journal.mark_published(reply.journalled.message_id, reply.journalled.origin)

    async def take(
        self, message: ReceivedMessage, flow: ScriptedFlow | None = None, senders: KnownSenders | None = None
    ) -> Outcome:
        """Return the outcome of a message of the request queue."""
        handler = self.handler(flow or ScriptedFlow(), senders)
        return await handler.handle(message, decode.requests_of("flow-requests"), "flow-requests")

    async def resume(self, outcome: Outcome, flow: ScriptedFlow, senders: KnownSenders | None = None) -> Outcome:
        """Return the outcome of the continuation that another outcome scheduled, at its due time."""
        assert isinstance(outcome, Continue), outcome
        self.clock.now = max(self.clock.now, outcome.due)
        # A broker enqueues a scheduled message when it is due, however late a worker receives it.
        message = delivered(SEAL.sealed(outcome.continuation.to_message(), outcome.due), outcome.due)
        return await self.handler(flow, senders).handle(message, READ_CONTINUATION, CONTINUATIONS)


class OneByOne:
    """The part of a stand-in for Service Bus that sends a batch as its messages."""

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        raise NotImplementedError

    async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        for message in messages:
            await self.send(queue, message, before)


def delivered(message: Message, at: datetime, sequence_number: int = 0) -> ReceivedMessage:
    """Return a message of the continuation queue as the broker delivers it."""
    copied = {field.name: getattr(message, field.name) for field in fields(Message)}
    return ReceivedMessage(**copied, enqueued_at=at, sequence_number=sequence_number)


def request(flow: str = "quote", **changes: object) -> ReceivedMessage:
    body: dict[str, object] = {"flow": flow, "input": {"customer": "Contoso"}, "claim": CLAIM}
    body |= {name: changes.pop(name) for name in ("input", "claim", "on_behalf_of") if name in changes}
    message = ReceivedMessage(
        body=json.dumps({name: value for name, value in body.items() if value is not None}).encode(),
        content_type="application/json",
        message_id="m-1",
        application_properties={"contract": CONTRACT},
        enqueued_at=NOW - timedelta(seconds=3),
    )
    return replace(message, **changes)  # type: ignore[arg-type]  # the tests name real fields


def reply_of(outcome: Outcome) -> Reply:
    assert isinstance(outcome, Reply), outcome
    return outcome
