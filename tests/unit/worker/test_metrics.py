"""The wrappers record what passes through the worker's ports, with labels whose values are bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import DataPointT, Gauge, InMemoryMetricReader, NumberDataPoint

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import ReplyAddress
from flow_contracts.result import FlowError, FlowResult, Status, Times
from flow_contracts.servicebus import Delivery, LockLost, MessageTooLarge, ServiceBusUnavailable
from flow_worker.broker_clock import BrokerClock
from flow_worker.errors import CallFailed, TemporarilyUnavailable
from flow_worker.flows.answer import Answer, Content
from flow_worker.flows.known_codes import bounded_code
from flow_worker.flows.limits import CallLimiter, FlowLimits
from flow_worker.flows.registry import Flow
from flow_worker.flows.verdict import FlowHealth
from flow_worker.instrumentation import Instrumentation
from flow_worker.instrumentation.journal import ObservedJournal
from flow_worker.journal import Journal, LeaseLost, open_journal
from flow_worker.pipeline.outcome import DeadLetter, Outcome, Reply
from flow_worker.pipeline.ports import Caller
from flow_worker.runtime.ports import Bus, OutcomeSender, QueueReceiver
from flow_worker.settings import JournalSettings, Settings
from flow_worker.telemetry.codes import RESULT_CODES
from flow_worker.telemetry.health import Health
from flow_worker.telemetry.metrics import LANES, SENDERS_OPEN, Metrics
from tests.unit.docs.code_names import result_codes

HOST = "canary-flows.environment.api.powerplatform.com"
URL = f"https://{HOST}/powerautomate/canary-path?api-version=1"
SETTINGS = Settings.model_validate(
    {
        "servicebus": {"connection_string": "Endpoint=sb://bus.example/;SharedAccessKeyName=k;SharedAccessKey=canary"},
        "claims": {"tenants": ["11111111-2222-3333-4444-555555555555"], "audiences": ["a"]},
        "flows": {"create-quote": {"url": URL, "role": "R"}},
    }
)
FLOW = Flow("create-quote", URL, "R", 10.0, idempotent=False)
NOW = datetime.now(UTC)


class Recorded:
    """Metrics whose values the test reads."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.metrics = Metrics(MeterProvider([self._reader], shutdown_on_exit=False).get_meter("test"))
        self.clock = BrokerClock()
        self.instrumentation = Instrumentation(self.metrics, SETTINGS, self.clock)

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """Return the value, or the count of a histogram, by the values of the attributes.

        Counters that are still at their beginning, zero, are left out. Gauges are not.
        """
        self.metrics.sample()
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        found = [one for scope in scopes for one in scope.metrics if one.name == name]
        return {
            tuple(map(str, (point.attributes or {}).values())): _value(point)
            for one in found
            for point in one.data.data_points
            if _value(point) or isinstance(one.data, Gauge)
        }


def _value(point: DataPointT) -> float:
    return point.value if isinstance(point, NumberDataPoint) else point.count


# --- Service Bus -----------------------------------------------------------------------------------------------------


def delivery(*, waited: float = 0.0, delivery_count: int = 0) -> Delivery:
    message = ReceivedMessage(
        body=b"canary", enqueued_at=NOW - timedelta(seconds=waited), delivery_count=delivery_count
    )
    return Delivery(message, raw=Mock(), lock_ends_at=1e12)


def bus_of(recorded: Recorded, receiver: QueueReceiver, health: Health | None = None, **methods: Any) -> Bus:
    @asynccontextmanager
    async def receiving(_: str) -> AsyncIterator[QueueReceiver]:
        yield receiver

    inner = Mock(spec=Bus, receiver=receiving, send=AsyncMock(**methods))
    return recorded.instrumentation.bus(inner, health or Health(), lambda: {"flow-replies": 3})


PROCESS = ("process", "servicebus", "q", "bus.example")


@pytest.mark.parametrize(
    ("settlement", "expected"),
    [("complete", ()), ("abandon", ("abandoned",)), ("dead_letter", ("dead_lettered",)), (None, ("unsettled",))],
)
async def test_a_delivery_is_measured_until_its_settlement(settlement: str | None, expected: tuple[str, ...]) -> None:
    recorded, receiver = Recorded(), AsyncMock(spec=QueueReceiver)
    receiver.receive.side_effect = [delivery(), None]
    async with bus_of(recorded, receiver).receiver("q") as observed:
        received = await observed.receive()
        assert received is not None
        match settlement:
            case "complete":
                await observed.complete(received)
            case "abandon":
                await observed.abandon(received)
            case "dead_letter":
                await observed.dead_letter(received, "reason", "canary")
        await observed.receive()
    assert recorded.values("messaging.process.duration") == {(*PROCESS, *expected): 1}
    assert recorded.values("messaging.client.consumed.messages") == {("receive", *PROCESS[1:]): 1}
    operations = recorded.values("messaging.client.operation.duration")
    settled = {} if settlement is None else {(settlement, *PROCESS[1:], "settle"): 1}
    assert operations == {("receive", *PROCESS[1:], "receive"): 1} | settled


async def test_a_connection_that_fails_counts_as_a_reconnect_and_ends_its_delivery() -> None:
    recorded, receiver = Recorded(), AsyncMock(spec=QueueReceiver)
    receiver.receive.return_value = delivery()
    receiver.complete.side_effect = ServiceBusUnavailable("canary")

    async def run_lane() -> None:
        async with bus_of(recorded, receiver).receiver("q") as observed:
            received = await observed.receive()
            assert received is not None
            await observed.complete(received)

    with pytest.raises(ServiceBusUnavailable):
        await run_lane()
    assert recorded.values("flow_worker.reconnects") == {("q",): 1}
    failed = ("complete", *PROCESS[1:], "settle", "ServiceBusUnavailable")
    assert recorded.values("messaging.client.operation.duration")[failed] == 1


async def test_a_lost_lock_counts_once_for_each_delivery_and_a_failed_renewal_each_time() -> None:
    recorded, receiver = Recorded(), AsyncMock(spec=QueueReceiver)
    receiver.receive.return_value = delivery()
    receiver.renew.side_effect = [ServiceBusUnavailable("away"), ServiceBusUnavailable("away"), LockLost]
    receiver.complete.side_effect = LockLost
    async with bus_of(recorded, receiver).receiver("q") as observed:
        received = await observed.receive()
        assert received is not None
        for operation in (observed.renew, observed.renew, observed.renew, observed.complete):
            with suppress(ServiceBusUnavailable, LockLost):
                await operation(received)
    assert recorded.values("flow_worker.locks.lost") == {("q",): 1}
    assert recorded.values("flow_worker.lock_renewals.failed") == {("q",): 2}


async def test_the_wait_counts_once_for_each_message() -> None:
    recorded, receiver = Recorded(), AsyncMock(spec=QueueReceiver)
    receiver.receive.side_effect = [delivery(waited=20), delivery(waited=40, delivery_count=1)]
    async with bus_of(recorded, receiver).receiver("q") as observed:
        await observed.receive()
        await observed.receive()
    assert recorded.values("flow_worker.queue.wait.duration") == {("q",): 1}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, {("send", *PROCESS[1:]): 1}),
        (ServiceBusUnavailable("canary"), {("send", *PROCESS[1:], "ServiceBusUnavailable"): 1}),
        (MessageTooLarge("canary"), {("send", *PROCESS[1:], "MessageTooLarge"): 1}),
        (LockLost("refused before the message left"), {}),
    ],
)
async def test_sent_messages_are_counted_by_attempts(
    error: Exception | None, expected: dict[tuple[str, ...], float]
) -> None:
    recorded = Recorded()
    bus = bus_of(recorded, AsyncMock(spec=QueueReceiver), side_effect=error)
    with suppress(Exception):
        await bus.send("q", Message(body=b"canary"))
    assert recorded.values("messaging.client.sent.messages") == expected


async def test_a_scheduled_message_has_an_operation_of_its_own() -> None:
    recorded = Recorded()
    await bus_of(recorded, AsyncMock(spec=QueueReceiver)).send("q", Message(body=b"", scheduled_at=NOW))
    assert recorded.values("messaging.client.operation.duration") == {("schedule", *PROCESS[1:], "send"): 1}


async def test_lanes_are_busy_idle_or_disconnected() -> None:
    recorded, receiver, health = Recorded(), AsyncMock(spec=QueueReceiver), Health()
    for connected in (True, True, False):
        lane = health.lane("q")
        if connected:
            lane.mark_connected()
    receiver.receive.return_value = delivery()
    bus = bus_of(recorded, receiver, health)
    async with bus.receiver("q") as observed:
        await observed.receive()
        assert recorded.values("flow_worker.lanes") == {("q", "busy"): 1, ("q", "idle"): 1, ("q", "disconnected"): 1}
    assert recorded.values("flow_worker.lanes")[("q", "busy")] == 0
    assert recorded.values("flow_worker.senders.open") == {("flow-replies",): 3}


# --- flows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "outcome", "http"),
    [
        (200, "http_2xx", ("443", "200")),
        (429, "http_4xx", ("443", "429", "429")),
        (777, "_OTHER", ("443", "_OTHER", "_OTHER")),
        (CallFailed("flow_timeout", "canary", may_have_run=True), "flow_timeout", ("443", "flow_timeout")),
        (CallFailed("canary", "canary", may_have_run=True), "_OTHER", ("443", "_OTHER")),
        (asyncio.CancelledError(), "interrupted", ("443", "interrupted")),
    ],
)
async def test_calls_are_counted_by_outcome_and_timed(
    end: int | BaseException, outcome: str, http: tuple[str, ...]
) -> None:
    recorded, caller = Recorded(), AsyncMock(spec=Caller)
    caller.invoke.side_effect = end if isinstance(end, BaseException) else None
    caller.invoke.return_value = Answer(end if isinstance(end, int) else 0, Content(), None, {})
    observed = recorded.instrumentation.caller(caller)
    with suppress(BaseException):
        await observed.invoke(FLOW, {"canary": 1}, token="canary", correlation_id="canary", traceparent=None)
    assert recorded.values("flow_worker.flow.calls") == {("create-quote", "call", outcome): 1}
    assert recorded.values("http.client.request.duration") == {("POST", HOST, *http, "create-quote"): 1}


async def test_a_status_poll_on_another_host_does_not_name_it() -> None:
    recorded, caller = Recorded(), AsyncMock(spec=Caller)
    caller.poll.return_value = Answer(202, Content(), None, {})
    observed = recorded.instrumentation.caller(caller)
    await observed.poll(FLOW, "https://canary-of-the-answer.example/runs?sig=canary", token="canary")
    await observed.poll(FLOW, "https://[canary", token="canary")
    other = ("GET", "_OTHER", "202", "create-quote")
    assert recorded.values("http.client.request.duration") == {other: 2}


async def test_a_status_url_that_is_refused_is_no_http_request() -> None:
    recorded, caller = Recorded(), AsyncMock(spec=Caller)
    caller.poll.side_effect = CallFailed("status_url_not_allowed", "canary", may_have_run=False)
    with suppress(CallFailed):
        await recorded.instrumentation.caller(caller).poll(FLOW, "https://elsewhere.example", token="canary")
    assert recorded.values("http.client.request.duration") == {}
    assert recorded.values("flow_worker.flow.calls") == {("create-quote", "poll", "status_url_not_allowed"): 1}


def test_the_limits_of_a_flow_show_in_gauges() -> None:
    recorded = Recorded()
    limits = FlowLimits(10, 100, 60.0, breaker_failures=1, breaker_seconds=60.0, breaker_max_seconds=60.0)
    limiter = CallLimiter({"create-quote": limits}, lambda: NOW)
    recorded.instrumentation.watch_limits(limiter.state)
    limiter.try_enter("create-quote", "first", "q")
    limiter.try_enter("create-quote", "second", "q")
    limiter.leave("create-quote", "first", "q", health=FlowHealth.UNHEALTHY, until=None)
    call, poll = ("create-quote", "call"), ("create-quote", "poll")
    assert recorded.values("flow_worker.flow.in_flight") == {call: 1, poll: 0}
    assert recorded.values("flow_worker.flow.calls_in_window") == {call: 2, poll: 0}
    assert recorded.values("flow_worker.flow.circuit_open") == {call: 1, poll: 0}
    assert recorded.values("flow_worker.flow.throttled") == {call: 0, poll: 0}
    assert recorded.values("flow_worker.flow.waiting") == {call: 0, poll: 0}


# --- results and decisions -------------------------------------------------------------------------------------------


def reply(flow: str | None, status: Status, code: str | None) -> Reply:
    error = FlowError(code=code, message="canary") if code else None
    times = Times(accepted=NOW - timedelta(seconds=5))
    result = FlowResult(
        status=status, flow=flow, error=error, times=times, correlation_id="canary", request_message_id="canary"
    )
    return Reply(result, ReplyAddress("canary", "canary", "canary", None), "flow-replies")


@pytest.mark.parametrize(
    ("flow", "code", "expected"),
    [
        ("create-quote", None, ("create-quote", "failed")),
        ("create-quote", "flow_timeout", ("create-quote", "failed", "flow_timeout")),
        ("create-quote", "MisMatchingOAuthClaims", ("create-quote", "failed", "MisMatchingOAuthClaims")),
        ("create-quote", "http_404", ("create-quote", "failed", "http_4xx")),
        ("create-quote", "a code of the flow: canary", ("create-quote", "failed", "_OTHER")),
        ("a name of the sender: canary", "unknown_flow", ("_OTHER", "failed", "unknown_flow")),
        (None, "malformed_request", ("_OTHER", "failed", "malformed_request")),
    ],
)
async def test_results_are_counted_with_names_and_codes_of_our_own(
    flow: str | None, code: str | None, expected: tuple[str, ...]
) -> None:
    recorded, inner = Recorded(), AsyncMock(spec=OutcomeSender)
    outcome: Outcome = reply(flow, Status.FAILED, code)
    inner.send.return_value = outcome
    await recorded.instrumentation.dispatcher(inner).send(outcome)
    assert recorded.values("flow_worker.requests") == {expected: 1}
    assert recorded.values("flow_worker.request.duration") == {expected[:2]: 1}
    assert recorded.values("flow_worker.dead_letters.answered") == {}


async def test_an_answered_dead_letter_counts_beside_its_result() -> None:
    recorded, inner = Recorded(), AsyncMock(spec=OutcomeSender)
    inner.send.return_value = reply("create-quote", Status.EXPIRED, "request_expired")
    await recorded.instrumentation.dispatcher(inner, for_dead_letters=True).send(inner.send.return_value)
    assert recorded.values("flow_worker.dead_letters.answered") == {("expired", "request_expired"): 1}
    assert recorded.values("flow_worker.requests") == {("create-quote", "expired", "request_expired"): 1}


async def test_an_outcome_without_a_result_counts_nothing() -> None:
    recorded, inner = Recorded(), AsyncMock(spec=OutcomeSender)
    inner.send.return_value = DeadLetter("message_id_missing", "canary")
    await recorded.instrumentation.dispatcher(inner).send(inner.send.return_value)
    assert recorded.values("flow_worker.requests") == {}


def test_decisions_are_counted_by_the_authority_of_the_sender_or_of_the_queue() -> None:
    recorded = Recorded()
    recorded.instrumentation.decided("flow-requests", "dataverse", None)
    recorded.instrumentation.decided("flow-requests", None, "claim_missing")
    recorded.instrumentation.decided("a queue of old settings", None, "claim_missing")
    assert recorded.values("flow_worker.access.decisions") == {
        ("dataverse",): 1,
        ("entra", "claim_missing"): 1,
        ("_OTHER", "claim_missing"): 1,
    }


def test_the_bounded_codes_are_those_that_results_carry() -> None:
    assert result_codes() == RESULT_CODES


@pytest.mark.parametrize("code", ["", "http_999", "http_40", "HTTP_404", "http_404 ", "x" * 10_000, "a\nb"])
def test_every_other_code_is_one_value(code: str) -> None:
    assert bounded_code(code) in ({"_OTHER"} if code else {"", "_OTHER"})


# --- the journal and the clock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (None, ("find",)),
        (TemporarilyUnavailable("journal_unavailable", "canary"), ("find", "journal_unavailable")),
        (TimeoutError(), ("find", "TimeoutError")),
        (asyncio.CancelledError(), ("find", "CancelledError")),
        (LeaseLost(), ("find",)),
    ],
)
async def test_the_journals_operations_are_measured_with_their_failures(
    failure: BaseException | None, expected: tuple[str, ...]
) -> None:
    recorded, journal = Recorded(), AsyncMock(spec=Journal)
    journal.find.side_effect = failure
    observed = recorded.instrumentation.journal(journal, Health())
    with suppress(BaseException):
        await observed.find("message")
    journal.find.assert_awaited_once_with("message")
    assert recorded.values("flow_worker.journal.operation.duration") == {expected: 1}


def test_the_wrapper_forwards_every_operation_of_the_journal() -> None:
    operations = {name for name in vars(Journal) if not name.startswith("_")}
    assert operations <= set(vars(ObservedJournal))


def test_a_clock_that_is_ahead_of_the_brokers_shows_in_the_gauge() -> None:
    recorded = Recorded()
    recorded.clock.at_most(datetime.now(UTC) - timedelta(seconds=600), time.monotonic())
    assert recorded.values("flow_worker.broker.clock_offset") == {(): pytest.approx(600, abs=1)}


def test_an_unavailable_journal_shows_in_the_gauge() -> None:
    recorded, health = Recorded(), Health()
    recorded.instrumentation.journal(AsyncMock(spec=Journal), health)
    assert recorded.values("flow_worker.journal.available") == {(): 1}
    health.journal.mark_unavailable("the disk is full")
    assert recorded.values("flow_worker.journal.available") == {(): 0}


async def test_the_size_of_the_journals_log_is_measured(tmp_path: Path) -> None:
    recorded = Recorded()
    settings = JournalSettings(path=tmp_path / "journal.sqlite3")
    async with open_journal(settings, metrics=recorded.metrics) as journal:
        await journal.keep_mark("mark")
        assert recorded.values("flow_worker.journal.log.size")[()] > 0


# --- gauges ----------------------------------------------------------------------------------------------------------


def test_a_faulty_gauge_takes_no_other_along(caplog: pytest.LogCaptureFixture) -> None:
    recorded = Recorded()
    recorded.metrics.gauge(LANES, Mock(side_effect=ZeroDivisionError))
    recorded.metrics.gauge(SENDERS_OPEN, lambda: [(1, {"queue": "q"})])
    for _ in range(2):
        assert recorded.values("flow_worker.senders.open") == {("q",): 1}
    assert [record.__dict__["event"] for record in caplog.records] == ["telemetry.gauge_failed"]
