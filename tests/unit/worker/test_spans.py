"""The trace context passes from message to message, with an SDK and without one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from flow_contracts.message import Message, ReceivedMessage
from flow_worker.instrumentation.bounds import Bounds
from flow_worker.instrumentation.spans import Spans, end, enter
from flow_worker.settings import Settings
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
    operation, *processes = exporter.get_finished_spans()
    own = [f"00-{one.context.trace_id:032x}-{one.context.span_id:016x}" for one in processes]
    assert [str(one.application_properties["traceparent"])[:-3] for one in sent] == own
    assert [link.context.span_id for link in operation.links] == [one.context.span_id for one in processes]
