"""The trace context passes from message to message, with an SDK and without one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from azure.core.settings import settings as azure_sdk
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from flow_contracts.message import Message, PropertyValue, ReceivedMessage
from flow_contracts.servicebus import Delivery
from flow_worker.broker_clock import BrokerClock
from flow_worker.instrumentation import Instrumentation
from flow_worker.instrumentation.bounds import Bounds
from flow_worker.instrumentation.spans import Spans, end, enter
from flow_worker.runtime.ports import Bus
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import ServiceBusSettings, Settings
from flow_worker.telemetry.health import Health
from flow_worker.telemetry.metrics import Metrics
from flow_worker.telemetry.trace_context import current_ids

SENDER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
RECEIVED = ReceivedMessage(body=b"", enqueued_at=datetime.now(UTC), application_properties={"traceparent": SENDER})
RESULT = Message(body=b"", application_properties={"contract": "flow-result/1"})
DOCUMENT = {
    "servicebus": {"namespace": "contoso.servicebus.windows.net"},
    "claims": {"tenants": ["11111111-2222-3333-4444-555555555555"], "audiences": ["a"]},
    "flows": {"create-quote": {"url": "https://one.environment.api.powerplatform.com/flow", "role": "R"}},
}


@pytest.fixture(autouse=True)
def _no_span_stays() -> Iterator[None]:
    yield
    enter(None)


def spans_of(sampler: Sampler | None = None, parent: str = "message") -> tuple[Spans, InMemorySpanExporter]:
    settings = Settings.model_validate(DOCUMENT | {"telemetry": {"parent": parent}})
    exporter, tracer = InMemorySpanExporter(), None
    if sampler is not None:
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("test")
    return Spans(tracer, settings, Bounds(settings)), exporter


def test_without_an_sdk_the_senders_context_passes_on_and_is_in_the_log() -> None:
    spans, _ = spans_of()
    enter(spans.begin("flow-requests", RECEIVED))
    span, message = spans.send("send", "flow-replies", RESULT)
    assert span is None
    assert message.application_properties == {"contract": "flow-result/1", "traceparent": SENDER}
    assert spans.call("POST", "create-quote", "https://one") is None
    assert spans.traceparent(None, SENDER) == SENDER
    assert current_ids() == {"trace_id": SENDER.split("-")[1], "span_id": SENDER.split("-")[2]}


def test_without_a_context_nothing_is_made_up() -> None:
    spans, _ = spans_of()
    assert spans.begin("flow-requests", ReceivedMessage(body=b"", enqueued_at=datetime.now(UTC))) is None
    assert spans.send("send", "flow-replies", RESULT) == (None, RESULT)


def test_a_trace_that_is_not_sampled_continues_without_spans() -> None:
    spans, exporter = spans_of(ALWAYS_OFF)
    span = spans.begin("flow-requests", RECEIVED)
    enter(span)
    sent, message = spans.send("send", "flow-replies", RESULT)
    assert (sent, spans.call("POST", "create-quote", "https://one")) == (None, None)
    _, trace_id, span_id, flags = str(message.application_properties["traceparent"]).split("-")
    assert (trace_id, flags) == (SENDER.split("-")[1], "00")
    assert spans.traceparent(None, SENDER) == f"00-{trace_id}-{span_id}-00"
    end(span)
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(("queue", "is_child"), [("flow-requests", False), ("flow-continuations", True)])
def test_a_sender_is_only_linked_if_the_settings_say_so(queue: str, is_child: bool) -> None:
    spans, exporter = spans_of(ALWAYS_ON, "link")
    end(spans.begin(queue, RECEIVED))
    [process] = exporter.get_finished_spans()
    assert (process.parent is not None) is is_child
    assert f"{process.links[0].context.trace_id:032x}" == SENDER.split("-")[1]


def test_each_message_of_a_batch_continues_its_own_trace() -> None:
    spans, exporter = spans_of(ALWAYS_ON)
    received = [ReceivedMessage(body=b"", enqueued_at=datetime.now(UTC), message_id=each) for each in "ab"]
    open_spans = [spans.begin("flow-requests", message) for message in received]
    for message, span in zip(received, open_spans, strict=True):
        spans.wait(message, span)
    batch = [Message(body=b"", correlation_id=each) for each in "ab"]
    sending, sent = spans.send_all("send", "flow-replies", batch)
    end(sending)
    for message, span in zip(received, open_spans, strict=True):
        spans.forget(message, span)
        end(span)
    *created, operation, _, _ = finished = exporter.get_finished_spans()
    assert [(one.name, one.kind.name) for one in created] == [("create flow-replies", "PRODUCER")] * 2
    assert [one.parent for one in created] == [one.context for one in finished[3:]]
    own = [f"00-{one.context.trace_id:032x}-{one.context.span_id:016x}" for one in created]
    assert [str(one.application_properties["traceparent"])[:-3] for one in sent] == own
    assert [link.context.span_id for link in operation.links] == [one.context.span_id for one in created]
    assert (created[0].attributes or {})["messaging.operation.type"] == "create"


def test_a_batch_keeps_the_context_of_a_message_and_makes_no_span_in_a_dropped_trace() -> None:
    spans, exporter = spans_of(ParentBased(ALWAYS_ON))
    unsampled = RECEIVED.with_property("traceparent", f"{SENDER[:-2]}00")
    received = replace(RECEIVED, correlation_id="a", application_properties=unsampled.application_properties)
    spans.wait(received, spans.begin("flow-requests", received))
    own = Message(body=b"", application_properties={"traceparent": SENDER})
    sending, sent = spans.send_all("send", "flow-replies", [Message(body=b"", correlation_id="a"), own])
    end(sending)
    assert [str(one.application_properties["traceparent"])[:36] for one in sent] == [SENDER[:36]] * 2
    assert [str(one.application_properties["traceparent"])[-2:] for one in sent] == ["00", SENDER[-2:]]
    assert [one.name for one in exporter.get_finished_spans()] == ["send flow-replies"]


async def test_the_tracing_of_the_azure_sdk_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would overwrite the trace context of a message, and make a span of each empty receive."""
    monkeypatch.setenv("AZURE_SDK_TRACING_IMPLEMENTATION", "opentelemetry")
    monkeypatch.setenv("AZURE_TRACING_ENABLED", "true")
    for setting in ("tracing_implementation", "tracing_enabled"):
        monkeypatch.setattr(getattr(type(azure_sdk), setting), "_user_value", type("Distro", (), {}))
    emulator = "Endpoint=sb://127.0.0.1:9;SharedAccessKeyName=a;SharedAccessKey=b;UseDevelopmentEmulator=true"
    async with open_service_bus(ServiceBusSettings.model_validate({"connection_string": emulator})):
        assert (azure_sdk.tracing_implementation(), azure_sdk.tracing_enabled()) == (None, False)


# --- without an SDK --------------------------------------------------------------------------------------------------


class Recorded:
    """A bus, and its receiver, that keep what was sent."""

    def __init__(self, *deliveries: Delivery) -> None:
        self.sent: list[Message] = []
        self.deliveries = list(deliveries)

    @asynccontextmanager
    async def receiver(self, _: str) -> AsyncIterator[Recorded]:
        yield self

    async def receive(self) -> Delivery | None:
        return self.deliveries.pop(0) if self.deliveries else None

    async def receive_many(self, *_: object) -> list[Delivery]:
        taken, self.deliveries = self.deliveries, []
        return taken

    async def complete(self, _: Delivery) -> None:
        """Keep nothing."""

    async def complete_all(self, _: Sequence[Delivery]) -> list[Delivery]:
        return []

    async def send(self, _: str, message: Message, __: object) -> None:
        self.sent.append(message)

    async def send_all(self, _: str, messages: Sequence[Message], __: object) -> None:
        self.sent.extend(messages)


def _idle(bus: Recorded) -> tuple[Bus, Instrumentation]:
    settings = Settings.model_validate(DOCUMENT)
    instrumentation = Instrumentation(Metrics(NoOpMeterProvider().get_meter("test")), settings, BrokerClock())
    return instrumentation.bus(cast(Bus, bus), Health()), instrumentation


def _delivered(number: int) -> Delivery:
    properties: dict[str, PropertyValue] = {"traceparent": _trace(number)} if number else {}
    message = ReceivedMessage(
        body=b"", enqueued_at=datetime.now(UTC), correlation_id=str(number), application_properties=properties
    )
    return Delivery(message, raw=cast(Any, None))


def _trace(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


def test_without_an_sdk_only_the_bus_is_wrapped() -> None:
    """A request then costs a few microseconds."""
    _, instrumentation = _idle(Recorded())
    journal, caller, dispatcher = (cast(Any, object()) for _ in range(3))
    assert instrumentation.journal(journal, Health()) is journal
    assert instrumentation.caller(caller) is caller
    assert instrumentation.dispatcher(dispatcher) is dispatcher


async def test_without_an_sdk_each_result_has_the_trace_of_its_request() -> None:
    recorded = Recorded(_delivered(1), _delivered(0), _delivered(2))
    bus, _ = _idle(recorded)
    ids = []
    async with bus.receiver("flow-requests") as receiver:
        while (delivery := await receiver.receive()) is not None:
            await bus.send("flow-replies", Message(body=b""))
            ids.append(current_ids().get("span_id"))
            await receiver.complete(delivery)
        assert current_ids() == {}, "no lane waits within a trace"
    assert [message.application_properties.get("traceparent") for message in recorded.sent] == [
        *(_trace(1), None, _trace(2)),
    ]
    assert ids == [f"{1:016x}", None, f"{2:016x}"]


async def test_without_an_sdk_a_message_that_has_a_trace_keeps_it() -> None:
    recorded = Recorded(_delivered(1))
    bus, _ = _idle(recorded)
    async with bus.receiver("flow-requests") as receiver:
        await receiver.receive()
        await bus.send("flow-continuations", Message(body=b"", application_properties={"traceparent": _trace(7)}))
    assert recorded.sent[0].application_properties == {"traceparent": _trace(7)}


async def test_without_an_sdk_each_message_of_a_batch_has_the_trace_of_its_request() -> None:
    recorded = Recorded(*map(_delivered, (1, 0, 2)))
    bus, _ = _idle(recorded)
    batch = [Message(body=b"", correlation_id=each) for each in ("2", "0", "1", "3")]
    async with bus.receiver("flow-requests") as receiver:
        deliveries = await receiver.receive_many(10, 0)
        await bus.send_all("flow-replies", batch)
        await receiver.complete_all(deliveries)
        await bus.send_all("flow-replies", batch[:1])
    traces = [message.application_properties.get("traceparent") for message in recorded.sent]
    assert traces == [_trace(2), None, _trace(1), None, None], "settled deliveries are forgotten"
