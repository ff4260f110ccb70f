"""The client continues the current trace of its caller, and never changes a trace context that the caller gave."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from unittest.mock import AsyncMock, Mock

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flow_contracts.client import tracing
from flow_contracts.client.sending import send_until_accepted
from flow_contracts.client.tracing import Receipt, Receiving
from flow_contracts.message import Message, PropertyValue, ReceivedMessage
from flow_contracts.result import InvalidResult
from flow_contracts.servicebus import MessageTooLarge, ServiceBus

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The exporter of an SDK that only the client sees."""
    spans = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return spans


async def sent(message: Message, failure: Exception | None = None) -> Message:
    bus = Mock(spec=ServiceBus, send=AsyncMock(side_effect=failure))
    await send_until_accepted(bus, "flow-requests", message, 5)
    result: Message = bus.send.await_args.args[1]
    return result


MESSAGE = Message(body=b"canary", message_id="m", correlation_id="c", application_properties={"contract": "x"})


async def test_a_request_continues_the_current_span_of_its_caller(exporter: InMemorySpanExporter) -> None:
    with trace.get_tracer("test").start_as_current_span("button"):
        message = await sent(MESSAGE)
    send, button = exporter.get_finished_spans()
    assert (send.name, send.kind) == ("send flow-requests", trace.SpanKind.PRODUCER)
    assert send.parent is not None
    assert send.parent.span_id == button.context.span_id
    ids = f"{send.context.trace_id:032x}-{send.context.span_id:016x}"
    assert message.application_properties == {
        "contract": "x",
        "traceparent": f"00-{ids}-{send.context.trace_flags:02x}",
    }
    assert "canary" not in send.to_json()


async def test_the_trace_context_of_the_caller_stays(exporter: InMemorySpanExporter) -> None:
    given = MESSAGE.with_property("traceparent", GIVEN)
    assert await sent(given) == given
    assert exporter.get_finished_spans() == ()


async def test_a_failure_has_its_type_and_no_text(exporter: InMemorySpanExporter) -> None:
    with pytest.raises(MessageTooLarge):
        await sent(MESSAGE, MessageTooLarge("canary"))
    [send] = exporter.get_finished_spans()
    assert (send.attributes or {})["error.type"] == "MessageTooLarge"
    assert not send.events
    assert "canary" not in send.to_json()


async def test_without_opentelemetry_the_message_is_sent_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_trace", None)
    assert await sent(MESSAGE) == MESSAGE


async def test_without_an_sdk_no_trace_context_is_made_up() -> None:
    assert await sent(MESSAGE) == MESSAGE


def test_a_thread_that_runs_the_client_has_the_current_span_of_its_caller(exporter: InMemorySpanExporter) -> None:
    """As `FlowClientSync` does."""
    from flow_contracts.client.loop_thread import LoopThread

    thread = LoopThread()
    try:
        with trace.get_tracer("test").start_as_current_span("button"):
            thread.run(sent(MESSAGE))
    finally:
        thread.stop()
    send, button = exporter.get_finished_spans()
    assert send.context.trace_id == button.context.trace_id


# --- results ---------------------------------------------------------------------------------------------------------

ENQUEUED = datetime(2026, 11, 30, 12, 0, 0, 250_000, tzinfo=UTC)


def result_of(properties: dict[str, PropertyValue]) -> Receipt:
    message = ReceivedMessage(
        body=b"canary", enqueued_at=ENQUEUED, message_id="r", correlation_id="c", application_properties=properties
    )
    return Receipt.of(message)


def test_a_receive_within_a_span_is_its_child_and_has_a_link_to_the_sender(exporter: InMemorySpanExporter) -> None:
    with trace.get_tracer("test").start_as_current_span("button"):
        receiving = Receiving("receive", "flow-replies")
        with receiving.found(result_of({"traceparent": GIVEN})):
            pass
    receive, button = exporter.get_finished_spans()
    assert (receive.name, receive.kind) == ("receive flow-replies", trace.SpanKind.CLIENT)
    assert receive.parent is not None
    assert receive.parent.span_id == button.context.span_id
    [link] = receive.links
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" == GIVEN[3:-3]
    assert dict(link.attributes or {}) == {"enqueuedTime": 1_796_040_000_250}
    assert dict(receive.attributes or {}) == {
        "messaging.system": "servicebus",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "flow-replies",
        "messaging.message.id": "r",
        "messaging.message.conversation_id": "c",
        "messaging.servicebus.message.enqueued_time": 1_796_040_000,
        "az.namespace": "Microsoft.ServiceBus",
    }
    assert (receive.start_time or 0) <= (receive.end_time or 0)


def test_a_receive_without_a_span_continues_the_trace_of_the_sender(exporter: InMemorySpanExporter) -> None:
    with Receiving("peek", "flow-replies").found(result_of({"Diagnostic-Id": GIVEN})):
        pass
    [peek] = exporter.get_finished_spans()
    assert peek.name == "peek flow-replies"
    assert peek.parent is not None
    assert f"{peek.parent.trace_id:032x}-{peek.parent.span_id:016x}" == GIVEN[3:-3]
    assert len(peek.links) == 1


@pytest.mark.parametrize("properties", [{}, {"traceparent": "canary"}, {"traceparent": 7}])
def test_a_result_without_a_trace_has_a_span_without_a_link(
    exporter: InMemorySpanExporter, properties: dict[str, PropertyValue]
) -> None:
    with Receiving("receive", "flow-replies").found(result_of(properties)):
        pass
    [receive] = exporter.get_finished_spans()
    assert (receive.parent, receive.links) == (None, ())
    assert "canary" not in receive.to_json()


def test_an_unreadable_result_fails_its_span_without_a_text(exporter: InMemorySpanExporter) -> None:
    with (
        pytest.raises(InvalidResult),
        Receiving("receive", "flow-replies").found(result_of({"traceparent": GIVEN})),
    ):
        raise InvalidResult("canary")
    [receive] = exporter.get_finished_spans()
    assert (receive.attributes or {})["error.type"] == "InvalidResult"
    assert (receive.status.status_code, receive.events) == (trace.StatusCode.ERROR, ())
    assert "canary" not in receive.to_json()


def test_without_opentelemetry_a_result_has_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_trace", None)
    with Receiving("receive", "flow-replies").found(result_of({"traceparent": GIVEN})):
        pass


def test_a_message_with_another_property_keeps_all_fields() -> None:
    values = {field.name: object() for field in dataclasses.fields(Message)} | {"application_properties": {"a": 1}}
    changed = Message(**values).with_property("b", 2)  # type: ignore[arg-type]
    expected = values | {"application_properties": {"a": 1, "b": 2}}
    assert {name: getattr(changed, name) for name in values} == expected
