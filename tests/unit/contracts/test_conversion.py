"""The conversions to and from the SDK's messages, tested with the bytes that the SDK writes and reads."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus._pyamqp._encode import encode_payload
from azure.servicebus._transport._pyamqp_transport import PyamqpTransport
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageProperties
from hypothesis import given

from flow_contracts.message import Message, ReceivedMessage
from flow_contracts.request import FlowRequest
from flow_contracts.servicebus.conversion import MAX_DEAD_LETTER_CHARACTERS, dead_letter_text, from_sdk, to_amqp, to_sdk
from tests.unit.contracts.strategies import requests


def transfer(annotated: AmqpAnnotatedMessage) -> ReceivedMessage:
    """Encode and decode the message with the SDK's own codec, as a sender and a receiver do."""
    wire = bytearray()
    encode_payload(wire, PyamqpTransport.to_outgoing_amqp_message(annotated))
    return from_sdk(ServiceBusReceivedMessage.from_bytes(bytes(wire)))


def send(message: Message) -> ReceivedMessage:
    received = transfer(to_sdk(message).raw_amqp_message)
    in_batch = transfer(to_amqp(message))
    assert in_batch.message_id
    message_id = in_batch.message_id if message.message_id else received.message_id  # the SDK invents one
    assert replace(in_batch, enqueued_at=received.enqueued_at, message_id=message_id) == received
    return received


FULL = Message(
    body=b"\x00\xffbody",
    content_type="application/json",
    message_id="m",
    correlation_id="c",
    session_id="s",
    reply_to="r",
    reply_to_session_id="rs",
    subject="Grüße",
    time_to_live=timedelta(milliseconds=1500),
    application_properties={"text": "ä", "whole": 7, "half": 0.5, "yes": True},
)


def test_every_field_arrives() -> None:
    received = send(FULL)
    for field in ("body", "content_type", "message_id", "correlation_id", "session_id", "reply_to", "subject"):
        assert getattr(received, field) == getattr(FULL, field)
    assert received.reply_to_session_id == "rs"
    assert received.time_to_live == FULL.time_to_live
    assert received.application_properties == FULL.application_properties


def test_an_absent_field_stays_absent() -> None:
    received = send(Message(body=b"", application_properties={"nothing": None}))
    assert (received.body, received.correlation_id, received.session_id, received.time_to_live) == (
        b"",
        None,
        None,
        None,
    )
    assert received.application_properties == {}


@given(requests)
def test_a_request_survives_encoding_and_decoding(request: FlowRequest) -> None:
    received = FlowRequest.from_message(send(request.to_message()))
    truncated = request.time_to_live and timedelta(milliseconds=request.time_to_live // timedelta(milliseconds=1))
    assert received == request.model_copy(update={"time_to_live": truncated})


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (timedelta(microseconds=5), timedelta(milliseconds=1)),
        (timedelta(milliseconds=300), timedelta(milliseconds=300)),
        (timedelta(days=1000), timedelta(milliseconds=2**32 - 1)),
    ],
)
def test_a_short_time_to_live_never_becomes_endless(requested: timedelta, expected: timedelta) -> None:
    assert send(Message(body=b"", time_to_live=requested)).time_to_live == expected


def test_the_content_encoding_survives_encoding_and_decoding() -> None:
    assert send(Message(body=b"", content_encoding="gzip")).content_encoding == "gzip"
    assert send(Message(body=b"")).content_encoding is None


def test_properties_of_other_types_arrive_as_text() -> None:
    key = uuid.UUID(int=7)
    sdk = ServiceBusMessage(b"", application_properties={"key": key, "bytes": b"abc"})
    assert transfer(sdk.raw_amqp_message).application_properties == {"key": str(key), "bytes": "abc"}


def test_ids_of_other_types_arrive_as_text() -> None:
    properties = AmqpMessageProperties(message_id=uuid.UUID(int=7), correlation_id=b"\xff")
    received = transfer(AmqpAnnotatedMessage(data_body=b"", properties=dict(properties)))
    assert received.message_id == str(uuid.UUID(int=7))
    assert received.correlation_id == "\\xff"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"data_body": [b"one", b"two"]}, b"onetwo"),
        ({"value_body": None}, b""),
        ({"value_body": '{"flow": "f"}'}, b'{"flow": "f"}'),
        ({"value_body": b"\xff"}, b"\xff"),
        ({"value_body": {"flow": "f", "input": {"amounts": [1, 2.5, None]}}}, None),
        ({"value_body": 7}, b"7"),
        ({"sequence_body": [[1, "two"], [3]]}, None),
    ],
)
def test_every_kind_of_amqp_body_arrives_as_bytes(body: dict[str, Any], expected: bytes | None) -> None:  # Any: SDK's
    received = transfer(AmqpAnnotatedMessage(**body, properties={"message_id": "m"})).body
    if expected is not None:
        assert received == expected
    else:
        assert received in (b'{"flow": "f", "input": {"amounts": [1, 2.5, null]}}', b'[[1, "two"], [3]]', b'[1, "two"]')


def test_the_brokers_annotations_are_read() -> None:
    wire = bytearray()
    encode_payload(
        wire,
        PyamqpTransport.to_outgoing_amqp_message(
            AmqpAnnotatedMessage(
                data_body=b"",
                header={"delivery_count": 3, "time_to_live": 60_000},
                annotations={
                    "x-opt-sequence-number": 42,
                    "x-opt-enqueued-time": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
                },
            )
        ),
    )
    received = from_sdk(ServiceBusReceivedMessage.from_bytes(bytes(wire)))
    assert (received.delivery_count, received.sequence_number) == (3, 42)
    assert received.enqueued_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert received.expires_at == received.enqueued_at + timedelta(minutes=1)


def test_a_dead_letter_text_is_one_that_the_sdk_can_encode() -> None:
    assert dead_letter_text("the flow '\ud800\u00e9'") == "the flow '?\u00e9'"
    assert len(dead_letter_text("x" * 5000)) == MAX_DEAD_LETTER_CHARACTERS


@pytest.mark.parametrize("field", ["message_id", "session_id", "reply_to_session_id"])
@pytest.mark.parametrize("convert", [to_sdk, to_amqp])
def test_an_id_longer_than_service_bus_accepts_is_no_message(convert: Callable[[Message], object], field: str) -> None:
    message = Message(body=b"", **{field: "x" * 129})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=field):
        convert(message)


def test_a_scheduled_message_of_a_batch_stays_scheduled() -> None:
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert to_amqp(Message(body=b"", scheduled_at=at)).annotations == {b"x-opt-scheduled-enqueue-time": at}
