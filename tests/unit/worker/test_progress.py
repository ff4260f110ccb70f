"""The states that a worker reports to a gateway: which, in what order, and never at a request's expense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from flow_contracts.gateway_replies import InvalidState, RequestProgress, is_state
from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import FlowRequest
from flow_contracts.servicebus import BeforeSend, ServiceBusUnavailable, unconditionally
from flow_worker.pipeline.job import Job
from flow_worker.runtime import progress as module
from flow_worker.runtime.progress import ProgressReports

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
DUE = NOW + timedelta(seconds=30)
QUEUES = {"flow-requests-gateway": "flow-replies-gateway"}


class Clock:
    """A monotonic clock that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Sender:
    """Records what a queue accepts."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[RequestProgress]]] = []
        self.failures: list[Exception] = []

    async def send(self, queue: str, message: Message, before: BeforeSend = unconditionally) -> None:
        raise NotImplementedError

    async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.batches.append((queue, [RequestProgress.from_message(message) for message in messages]))

    @property
    def states(self) -> list[tuple[str, str, str | None]]:
        return [(state.request, state.state, state.code) for _, batch in self.batches for state in batch]


def job(message_id: str = "m1", queue: str = "Flow-Requests-Gateway", **changes: object) -> Job:
    request = FlowRequest(flow="f", message_id=message_id, correlation_id=message_id, reply_to_session_id=message_id)
    message = ReceivedMessage(body=b"", message_id=message_id, enqueued_at=NOW)
    return Job.from_request(request, message, queue).model_copy(update=changes)


@asynccontextmanager
async def running(reports: ProgressReports) -> AsyncIterator[None]:
    task = asyncio.create_task(reports.run())
    try:
        yield
    finally:
        reports.stop()
        await asyncio.wait_for(task, 1)


async def until(condition: Callable[[], object]) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("the condition did not come true")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GATHER_SECONDS", 0.01)
    monkeypatch.setattr(module, "_FAILURE_PAUSE_SECONDS", 0.01)


async def test_a_wait_is_reported_with_its_cause_and_its_end() -> None:
    sender = Sender()
    reports = ProgressReports(sender, QUEUES, lambda: NOW)
    async with running(reports):
        reports.waits(job(code="flow_throttled", calls=2), DUE)
        await until(lambda: sender.batches)

    expected = RequestProgress(request="m1", state="waiting", at=NOW, until=DUE, code="flow_throttled", attempts=2)
    assert sender.batches == [("flow-replies-gateway", [expected])]


async def test_only_a_call_that_lasts_is_reported() -> None:
    sender, clock = Sender(), Clock()
    reports = ProgressReports(sender, QUEUES, lambda: NOW, clock)
    async with running(reports):
        with reports.calling(job("short", calls=1)):
            clock.seconds = 0.4
        with reports.calling(job("long", calls=3)):
            clock.seconds = 1.0
            await until(lambda: sender.batches)

    assert sender.states == [("long", "calling", None)]


async def test_other_queues_requests_and_waits_of_a_moment_are_not_reported() -> None:
    sender, clock = Sender(), Clock()
    reports = ProgressReports(sender, QUEUES, lambda: NOW, clock)
    async with running(reports):
        reports.waits(job(queue="flow-requests", code="flow_throttled"), DUE)
        reports.waits(job(code="request_burst"), DUE)
        with reports.calling(job(queue="flow-requests")):
            clock.seconds = 9.0
            reports.waits(job("last", code="flow_running"), DUE)
            await until(lambda: sender.batches)

    assert sender.states == [("last", "waiting", "flow_running")]


async def test_an_outage_keeps_the_newest_state_of_each_request() -> None:
    sender = Sender()
    sender.failures = [ServiceBusUnavailable("down"), RuntimeError("an internal error")]
    reports = ProgressReports(sender, QUEUES, lambda: NOW)
    async with running(reports):
        reports.waits(job("a", code="first"), DUE)
        reports.waits(job("b", code="only"), DUE)
        await until(lambda: len(sender.failures) < 2)
        reports.waits(job("a", code="second"), DUE)
        await until(lambda: sender.batches)

    assert sorted(sender.states) == [("a", "waiting", "second"), ("b", "waiting", "only")]


async def test_the_table_is_bounded_and_the_oldest_state_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_NOTES", 3)
    sender = Sender()
    reports = ProgressReports(sender, QUEUES, lambda: NOW)
    for number in range(5):
        reports.waits(job(f"m{number}", code="c"), DUE)
    async with running(reports):
        await until(lambda: sender.batches)

    assert [request for request, _, _ in sender.states] == ["m2", "m3", "m4"]


async def test_a_queue_that_does_not_answer_holds_up_no_request_and_no_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Frozen(Sender):
        async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(module, "_SEND_SECONDS", 0.05)
    reports = ProgressReports(Frozen(), QUEUES, lambda: NOW)
    async with running(reports):
        reports.waits(job(code="c"), DUE)
        await asyncio.sleep(0.03)
        with reports.calling(job("m2")):  # returns at once
            pass


async def test_an_interrupt_ends_the_batch_under_way() -> None:
    class Frozen(Sender):
        began = asyncio.Event()

        async def send_all(self, queue: str, messages: Sequence[Message], before: BeforeSend = unconditionally) -> None:
            self.began.set()
            await asyncio.Event().wait()

    sender = Frozen()
    reports = ProgressReports(sender, QUEUES, lambda: NOW)
    reports.interrupt()  # before anything was sent
    reports = ProgressReports(sender, QUEUES, lambda: NOW)
    async with running(reports):
        reports.waits(job(code="c"), DUE)
        await sender.began.wait()
        reports.interrupt()
        reports.interrupt()  # the supervisor may do so twice


async def test_a_replay_reports_under_the_requests_own_id() -> None:
    sender = Sender()
    reports = ProgressReports(sender, QUEUES, lambda: NOW)
    async with running(reports):
        reports.waits(job("replay", code="c", replay_of="m1"), DUE)
        await until(lambda: sender.batches)

    assert sender.states == [("m1", "waiting", "c")]


def test_the_same_state_has_the_same_message_id_and_another_one_has_another() -> None:
    state = RequestProgress(request="m1", state="waiting", at=NOW)
    assert state.to_message().message_id == state.to_message().message_id
    later = state.model_copy(update={"at": DUE})
    assert later.to_message().message_id != state.to_message().message_id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"request": "m", "state": "done", "at": "2026-12-01T12:00:00Z"}',
        b'{"request": "m", "state": "calling", "at": "2026-12-01T12:00:00"}',
        b'{"request": "", "state": "calling", "at": "2026-12-01T12:00:00Z"}',
        b'{"request": "m", "state": "calling", "at": "2026-12-01T12:00:00Z", "attempts": -1}',
        b'{"request": "m", "state": "calling", "at": "2026-12-01T12:00:00Z", "x": "' + b"a" * 5000 + b'"}',
        b"\xff",
    ],
)
def test_a_message_that_is_no_state_is_refused(body: bytes) -> None:
    message = Message(body=body, application_properties={"fw-kind": "state"})
    assert is_state(message)
    with pytest.raises(InvalidState):
        RequestProgress.from_message(message)
