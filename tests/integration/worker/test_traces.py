"""One trace leads from the sender to the flow and back, as a real collector receives it, and it keeps every secret."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import JsonValue

from flow_contracts.client import Background, FlowClientSync
from flow_contracts.result import FlowResult
from flow_worker.dead_letters.actions import replay_with, settle_all
from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.pipeline import decode
from flow_worker.runtime.seal_keys import open_seal
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import Settings
from flow_worker.telemetry import logs
from tests.support.otlp import Collector, Received, running_collector
from tests.support.processes import CHECKOUT
from tests.support.system import SEAL_KEY, WAIT, System, running_system, short_lock, until, worker_settings

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CANARY = "canary-5e1d"
INPUT: JsonValue = {"customer": f"{CANARY}-input", "amount": 1}
LOCK_SECONDS = 5
REQUESTS, CONTINUATIONS, REPLIES = "flow-requests", "flow-continuations", "flow-replies"
VARIABLES = ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_METRICS_EXPORTER")


@dataclass(frozen=True)
class Sender:
    """A sender's trace: each request begins another one."""

    trace_id: str
    span_id: str

    @classmethod
    def new(cls) -> Sender:
        return cls(secrets.token_hex(16), secrets.token_hex(8))

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def collector() -> AsyncIterator[Collector]:
    with running_collector() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(collector: Collector) -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with running_system(monkeypatch, short_lock(LOCK_SECONDS)) as running:
            running.flows["patient"] = {"idempotent": True}
            running.flows["spent"] = {"idempotent": True, "retry": {"max_calls": 1}}
            running.flows["taken-over"] = {"idempotent": True, "timeout_seconds": 1}
            running.flows["long"] = {}
            await running.put("flows/taken-over", {})
            await running.put("flows/typed", {"response": {"body": {"error": {"code": CANARY}}, "status": 400}})
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settings(system: System) -> Settings:
    journal = {"path": str(system.folder / "journal.sqlite3"), "lease_margin_seconds": 0.5}
    return system.settings(continuations={"lanes": 1, "seal_key": SEAL_KEY}, journal=journal)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def background(system: System, settings: Settings) -> AsyncIterator[Background]:
    async with system.worker(settings), system.client() as client, client.background() as one:
        yield one


async def ask(system: System, background: Background, flow: str, sender: Sender, **behaviour: object) -> FlowResult:
    if behaviour:
        await system.put(f"flows/{flow}", behaviour)
    return await background.request(flow, INPUT, WAIT, claim=system.claim(), traceparent=sender.traceparent)


async def trace(collector: Collector, sender: Sender, count: int) -> list[Received]:
    """Return the spans of the sender's trace, once there are so many."""
    await until(lambda: len(collector.trace(sender.trace_id)) >= count)
    spans = collector.trace(sender.trace_id)
    assert len(spans) == count, [span.name for span in spans]
    return spans


def tree(spans: list[Received], sender: Sender) -> list[tuple[str, str, str]]:
    """Return the name, the kind and the parent's name of each span. Every parent is in the trace."""
    names = {span.span_id: span.name for span in spans} | {sender.span_id: "sender"}
    return [(span.name, span.kind, names[span.parent]) for span in spans]


def processing(queue: str, parent: str, *inner: tuple[str, str], settlement: str = "complete") -> list[tuple[str, ...]]:
    name = f"process {queue}"
    return [
        *((*span, name) for span in inner),
        (f"{settlement} {queue}", "CLIENT", name),
        (name, "CONSUMER", parent),
    ]


def named(spans: list[Received], name: str) -> Received:
    [found] = [span for span in spans if span.name == name]
    return found


async def test_the_delivery_after_a_kill_continues_the_trace(
    system: System, settings: Settings, collector: Collector
) -> None:
    """First, because it needs a queue without a worker. The killed worker takes its unfinished spans along."""
    sender = Sender.new()
    async with system.client() as client:
        sent = await client.submit("taken-over", INPUT, claim=system.claim(), traceparent=sender.traceparent)
        await run_until_killed(system, settings)
        async with system.worker(settings):
            result = await client.take(sent, WAIT)
    assert result is not None
    assert (result.status, result.attempts) == ("succeeded", 2)
    # Without the calls: the killed worker may have exported its own. The lease may make the second worker wait.
    second = [span for span in collector.trace(sender.trace_id) if span.name != "POST taken-over"]
    last = ("send flow-replies", "PRODUCER")
    waits = processing(REQUESTS, "sender", ("schedule flow-continuations", "PRODUCER"))
    at_once = processing(REQUESTS, "sender", last)
    assert tree(second, sender) in (at_once, waits + processing(CONTINUATIONS, "schedule flow-continuations", last))
    assert named(second, "process flow-requests").attributes["messaging.servicebus.message.delivery_count"] == 2
    assert (await system.calls("taken-over"))[-1]["traceparent"].startswith(f"00-{sender.trace_id}-")


async def run_until_killed(system: System, settings: Settings) -> None:
    document = worker_settings(system.emulator, system.flows) | {
        "journal": {"path": str(settings.journal.path), "lease_margin_seconds": 0.5},
        "continuations": {"lanes": 1, "seal_key": SEAL_KEY},
    }
    path = system.folder / "doomed.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.crashing_worker", str(path), "after the call, before the journal", "1"),
        cwd=CHECKOUT,
        env={**os.environ, **system.emulator.web.environment()},
        stderr=asyncio.subprocess.DEVNULL,
    )
    await asyncio.wait_for(process.wait(), WAIT)


async def test_a_request_that_succeeds_is_one_trace(
    system: System, settings: Settings, background: Background, collector: Collector
) -> None:
    sender = Sender.new()
    result = await ask(system, background, "create-quote", sender)
    assert result.status == "succeeded"
    spans = await trace(collector, sender, 4)
    calls = ("POST create-quote", "CLIENT"), ("send flow-replies", "PRODUCER")
    assert tree(spans, sender) == processing(REQUESTS, "sender", *calls)
    # The flow and the sender continue the trace.
    assert (await system.calls("create-quote"))[-1]["traceparent"] == named(spans, "POST create-quote").traceparent
    assert result.traceparent == named(spans, "send flow-replies").traceparent
    process = named(spans, "process flow-requests")
    [(linked, attributes)] = process.links
    assert linked == sender.span_id
    assert result.times.accepted is not None
    accepted = result.times.accepted.timestamp()
    assert attributes == {"enqueuedTime": int(accepted * 1000)}
    assert process.attributes == {
        "messaging.system": "servicebus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": REQUESTS,
        "messaging.message.id": result.request_message_id,
        "messaging.message.conversation_id": result.correlation_id,
        "messaging.servicebus.message.delivery_count": 1,
        "messaging.servicebus.message.enqueued_time": int(accepted),
        "server.address": "127.0.0.1",
        "server.port": settings.servicebus.server[1],
        "az.namespace": "Microsoft.ServiceBus",
        "flow_worker.flow": "create-quote",
        "flow_worker.status": "succeeded",
    }
    assert process.events == [("authorize", {"flow_worker.authority": "entra"})]
    ids = ("messaging.message.id", "messaging.message.conversation_id", "server.port")
    completed = named(spans, "complete flow-requests").attributes
    assert {name: completed[name] for name in ids} == {name: process.attributes[name] for name in ids}
    assert named(spans, "complete flow-requests").attributes["messaging.servicebus.disposition_status"] == "complete"
    assert not any(span.is_error for span in spans)


async def test_a_refused_request_has_its_decision_and_no_call(
    system: System, background: Background, collector: Collector
) -> None:
    for claim, event in ((system.claim("Other"), "authorize"), (system.claim(forged=True), "authenticate")):
        sender = Sender.new()
        result = await background.request("create-quote", INPUT, WAIT, claim=claim, traceparent=sender.traceparent)
        assert result.status == "refused"
        spans = await trace(collector, sender, 3)
        assert tree(spans, sender) == processing(REQUESTS, "sender", ("send flow-replies", "PRODUCER"))
        [(name, attributes)] = named(spans, "process flow-requests").events
        assert (name, attributes["flow_worker.authority"]) == (event, "entra")
        assert attributes["flow_worker.code"] in {"role_missing", "claim_invalid"}


async def test_a_request_that_is_retried_over_three_continuations_stays_in_its_trace(
    system: System, background: Background, collector: Collector
) -> None:
    sender = Sender.new()
    faults = [{"kind": "reset_after_reading", "next_calls": 3}]
    result = await ask(system, background, "patient", sender, faults=faults)
    assert (result.status, result.attempts) == ("succeeded", 4)
    spans = await trace(collector, sender, 16)
    call, again = ("POST patient", "CLIENT"), ("schedule flow-continuations", "PRODUCER")
    waits = processing(CONTINUATIONS, "schedule flow-continuations", call, again)
    last = processing(CONTINUATIONS, "schedule flow-continuations", call, ("send flow-replies", "PRODUCER"))
    assert tree(spans, sender) == [*processing(REQUESTS, "sender", call, again), *waits, *waits, *last]
    failed = [span for span in spans if span.name == "POST patient" and span.is_error]
    assert [span.attributes["error.type"] for span in failed] == ["flow_no_answer"] * 3
    # Each continuation is linked to the span that scheduled it.
    scheduled = [span.span_id for span in spans if span.name == "schedule flow-continuations"]
    continued = [span for span in spans if span.name == "process flow-continuations"]
    assert [span.links[0][0] for span in continued] == scheduled


async def test_the_polls_of_a_long_run_stay_in_its_trace(
    system: System, background: Background, collector: Collector
) -> None:
    sender = Sender.new()
    asynchronous = {"done_after_polls": 1, "retry_after": None}
    result = await ask(system, background, "long", sender, asynchronous=asynchronous, response={"echo": True})
    assert result.status == "succeeded"
    schedule = ("schedule flow-continuations", "PRODUCER")
    spans = await trace(collector, sender, 12)
    assert tree(spans, sender) == [
        *processing(REQUESTS, "sender", ("POST long", "CLIENT"), schedule),
        *processing(CONTINUATIONS, schedule[0], ("GET long", "CLIENT"), schedule),
        *processing(CONTINUATIONS, schedule[0], ("GET long", "CLIENT"), ("send flow-replies", "PRODUCER")),
    ]


async def test_a_replayed_dead_letter_continues_the_trace_of_its_request(
    system: System, settings: Settings, background: Background, collector: Collector
) -> None:
    sender = Sender.new()
    faults = [{"kind": "reset_after_reading", "next_calls": 1}]
    result = await ask(system, background, "spent", sender, faults=faults)
    assert result.status == "failed"
    spans = await trace(collector, sender, 4)
    inner = ("POST spent", "CLIENT"), ("send flow-replies", "PRODUCER")
    assert tree(spans, sender) == processing(REQUESTS, "sender", *inner, settlement="dead_letter")
    process = named(spans, "process flow-requests")
    assert (process.is_error, process.attributes["error.type"]) == (True, "dead_lettered")
    assert process.attributes["flow_worker.status"] == "failed"
    await replay_all(settings)
    replayed = await background.wait(result.correlation_id, WAIT)
    assert (replayed.status, replayed.replay_of) == ("succeeded", result.request_message_id)
    spans = (await trace(collector, sender, 8))[4:]
    assert tree(spans, sender) == processing(CONTINUATIONS, "sender", *inner)


async def replay_all(settings: Settings) -> None:
    """Replay the dead letters of the request queue, as `flow-worker deadletters replay` does."""
    seal = await open_seal(settings.continuations, settings.journal)
    readers = decode.readers(settings.request_queues, CONTINUATIONS, seal)
    async with open_service_bus(settings.servicebus) as bus:
        async with bus.dead_letter_queue(REQUESTS) as dead:
            views = [DeadLetterView.of(REQUESTS, one, readers[REQUESTS]) async for one in dead.peek()]
        left: list[str | None] = []
        replay = replay_with(bus, CONTINUATIONS, readers, seal)
        await settle_all(bus, views, replay, lambda outcome: left.append(outcome.left))
    assert left == [None]


# --- the log and the clients -----------------------------------------------------------------------------------------


class Documents(logging.Handler):
    """Keeps the lines of the log in JSON."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logs._Json())
        self.written: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(json.loads(self.format(record)))


async def test_each_line_about_a_request_names_the_span_in_which_it_was_written(
    system: System, background: Background, collector: Collector
) -> None:
    sender, documents = Sender.new(), Documents()
    own = logging.getLogger("flow_worker")
    level = own.level
    own.addHandler(documents)
    own.setLevel(logging.INFO)
    try:
        faults = [{"kind": "reset_after_reading", "next_calls": 1}]
        result = await ask(system, background, "patient", sender, faults=faults)
        spans = await trace(collector, sender, 8)
        await until(lambda: any(each["event_name"] == "request.completed" for each in documents.written))
    finally:
        own.removeHandler(documents)
        own.setLevel(level)
    lines = [line for line in documents.written if line.get("trace_id") == sender.trace_id]
    about = "messaging.message.conversation_id"
    assert [line for line in documents.written if line.get(about) == result.correlation_id and line not in lines] == []
    processes = {span.name: span.span_id for span in spans if span.kind == "CONSUMER"}
    # A lane can take the continuation before the lane that scheduled it writes its line.
    assert sorted((line["event_name"], line["span_id"], line["trace_flags"]) for line in lines) == sorted(
        [
            ("access.allowed", processes["process flow-requests"], "01"),
            ("request.rescheduled", processes["process flow-requests"], "01"),
            ("access.allowed", processes["process flow-continuations"], "01"),
            ("request.completed", processes["process flow-continuations"], "01"),
        ]
    )
    received = named(spans, "process flow-requests").attributes
    [rescheduled] = [line for line in lines if line["event_name"] == "request.rescheduled"]
    assert rescheduled["messaging.message.id"] == received["messaging.message.id"]
    assert rescheduled[about] == received[about]


async def test_the_clients_begin_and_end_the_trace(
    system: System, background: Background, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender's program has an SDK of its own; the worker's spans go to the collector."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(api, "get_tracer", provider.get_tracer)
    connection_string = system.emulator.connection_string

    async def button(receive: Callable[[], Awaitable[FlowResult | None]], *, empty: bool = False) -> list[ReadableSpan]:
        exporter.clear()
        with provider.get_tracer("test").start_as_current_span("button") as span:
            result = await receive()
        assert empty or (result is not None and result.status == "succeeded")
        own = list(exporter.get_finished_spans())
        assert {one.context.trace_id for one in own} == {span.get_span_context().trace_id}
        if result is not None:
            published = await trace(collector, Sender(f"{span.get_span_context().trace_id:032x}", ""), 4)
            [link] = own[-2].links
            assert f"{link.context.span_id:016x}" == named(published, "send flow-replies").span_id
            assert (link.attributes or {}).keys() == {"enqueuedTime"}
        return own

    def blocking(claim: str) -> FlowResult | None:
        with FlowClientSync.from_connection_string(connection_string) as client:
            return client.take(client.submit("create-quote", INPUT, claim=claim), WAIT)

    def blocking_background(claim: str) -> FlowResult:
        with FlowClientSync.from_connection_string(connection_string) as client, client.background() as one:
            return one.request("create-quote", INPUT, WAIT, claim=claim)

    async with system.client() as client:

        async def submitted() -> str:
            return await client.submit("create-quote", INPUT, claim=system.claim())

        async def waited() -> FlowResult:
            return await client.wait(await submitted(), WAIT)

        async def taken() -> FlowResult | None:
            return await client.take(await submitted(), WAIT)

        async def nothing() -> FlowResult | None:
            return await client.poll("nobody's")

        clients: list[tuple[Callable[[], Awaitable[FlowResult | None]], str]] = [
            (waited, "peek"),
            (taken, "receive"),
            (lambda: background.request("create-quote", INPUT, WAIT, claim=system.claim()), "receive"),
            (lambda: asyncio.to_thread(blocking, system.claim()), "receive"),
            (lambda: asyncio.to_thread(blocking_background, system.claim()), "receive"),
        ]
        for ask_for, operation in clients:
            spans = await button(ask_for)
            assert [(one.name, one.kind.name) for one in spans] == [
                ("send flow-requests", "PRODUCER"),
                (f"{operation} flow-replies", "CLIENT"),
                ("button", "INTERNAL"),
            ]
        assert [one.name for one in await button(nothing, empty=True)] == ["button"]


async def test_no_span_has_a_secret(
    system: System, settings: Settings, background: Background, collector: Collector
) -> None:
    sender = Sender.new()
    claim = system.claim()
    result = await background.request("typed", INPUT, WAIT, claim=claim, traceparent=sender.traceparent)
    assert result.error is not None
    assert result.error.code == CANARY
    spans = await trace(collector, sender, 4)
    assert named(spans, "process flow-requests").attributes["flow_worker.code"] == "_OTHER"
    call = named(spans, "POST typed")
    assert (call.attributes["http.response.status_code"], call.attributes["error.type"], call.is_error) == (
        *(400, "400", True),
    )
    everything = b"".join(collector.raw).decode("latin-1")
    secrets_ = [CANARY, "eyJ", "SharedAccess", *claim.split(".")]
    secrets_ += [flow.url.get_secret_value().split("/", 3)[3] for flow in settings.flows.values()]
    assert [secret for secret in secrets_ if secret in everything] == []
    assert not any("exception" in name for span in collector.spans for name, _ in span.events)


async def test_no_receive_without_a_message_is_a_span(
    system: System, background: Background, collector: Collector
) -> None:
    sender = Sender.new()
    await ask(system, background, "create-quote", sender)
    await trace(collector, sender, 4)
    assert {span.name for span in collector.spans if "receive" in span.name} == set()


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        f"ff-{'1' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'1' * 16}-01" * 1000,
        f"00-{'A' * 32}-{'1' * 16}-01",
        f"00-{'1' * 31}\u0661-{'1' * 16}-01",
        f"{CANARY}\r\nx: y",
    ],
    ids=range(7),
)
async def test_a_malformed_trace_context_begins_another_trace(
    system: System, background: Background, collector: Collector, traceparent: str
) -> None:
    claim, message_id = system.claim(), f"malformed-{secrets.token_hex(8)}"
    result = await background.request(
        "create-quote", INPUT, WAIT, claim=claim, traceparent=traceparent, message_id=message_id
    )
    assert result.status == "succeeded"

    def processes() -> list[Received]:
        consumers = [span for span in collector.spans if span.kind == "CONSUMER"]
        return [span for span in consumers if span.attributes["messaging.message.id"] == message_id]

    await until(lambda: bool(processes()))
    [process] = processes()
    assert (process.parent, process.links) == ("", [])
