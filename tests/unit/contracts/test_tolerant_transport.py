"""The transport against the SDK's own link: it fails here first if a release of the SDK changes its internals."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from azure.servicebus._pyamqp.aio import ReceiverLink
from azure.servicebus._pyamqp.message import Message
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.aio._transport._pyamqp_transport_async import PyamqpTransportAsync

from flow_contracts.servicebus import tolerant_transport
from flow_contracts.servicebus.connection import ConnectionString, connect
from flow_contracts.servicebus.tolerant_transport import TolerantTransport, Transfers, decoded_by_us
from servicebus_emulator.amqp.sections import AMQP_VALUE, DATA, PROPERTIES
from tests.support.poison import BODY, deep, section

Delivered = list[tuple[int, Message]]
POISON = section(PROPERTIES, ["id-1"]) + section(AMQP_VALUE, deep())
GOOD = section(PROPERTIES, ["id-1"]) + section(DATA, BODY)


def link() -> tuple[Any, Delivered]:
    """Return a link of the SDK without a connection, and what it delivers by delivery ID."""
    delivered: Delivered = []

    async def on_transfer(frame: list[Any], message: Message) -> None:
        delivered.append((frame[1], message))

    session = SimpleNamespace(_connection=SimpleNamespace(_remote_max_frame_size=65_536))
    sdk_link: Any = ReceiverLink
    made = sdk_link(
        session, 3, "queue", on_transfer=on_transfer, network_trace=False, network_trace_params={}, link_credit=5
    )
    made.delivery_count, made.current_link_credit = 0, 5
    return made, delivered


def frames(payload: bytes, delivery_id: int, size: int) -> list[list[Any]]:
    """Return the transfer frames of one message in the form of the SDK's decoder."""
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    return [
        [0, None if at else delivery_id, None if at else b"tag", None, False, at + 1 < len(parts)]
        + [None] * 5
        + [memoryview(part)]
        for at, part in enumerate(parts)
    ]


async def test_a_poison_message_breaks_the_sdks_own_link() -> None:
    made, _ = link()
    with pytest.raises(ValueError, match="nesting"):
        await made._incoming_transfer(frames(POISON, 7, 1_000)[0])


@pytest.mark.parametrize("size", [7, 50, 1_000])
async def test_messages_of_any_number_of_frames_arrive_one_after_the_other(size: int) -> None:
    made, delivered = link()
    Transfers(made, None)
    for delivery_id, payload in enumerate([GOOD, POISON, GOOD]):
        for frame in frames(payload, delivery_id, size):
            await made._incoming_transfer(frame)
    assert [delivery_id for delivery_id, _ in delivered] == [0, 1, 2]
    assert [message for _, message in delivered] == [decoded_by_us(one) for one in (GOOD, POISON, GOOD)]
    assert (made.delivery_count, made.current_link_credit) == (3, 2), "the SDK counts as ever"
    assert made._received_delivery_tags == {b"tag"}, "the SDK can settle them"


async def test_a_message_beyond_the_limit_lacks_its_body_and_takes_no_more_memory() -> None:
    made, delivered = link()
    transfers = Transfers(made, len(GOOD) - 1)
    for frame in frames(GOOD + bytes(100_000), 0, 1_000):
        await made._incoming_transfer(frame)
        assert len(transfers._payload) < len(GOOD)
    for frame in frames(GOOD[:-1], 1, 10):
        await made._incoming_transfer(frame)
    assert [message.properties and message.properties.message_id for _, message in delivered] == [b"id-1", b"id-1"]
    assert [getattr(message, "undecodable", None) for _, message in delivered] == [("body",)] * 2


async def test_a_link_that_delivers_in_another_way_keeps_the_sdks_message() -> None:
    """An empty message in its place would be dead-lettered, and nobody would notice the change of the SDK."""
    made, delivered = link()
    Transfers(made, None)
    message = Message(data=[BODY])
    await made._process_incoming_message(frames(GOOD, 0, 1_000)[0], message)
    assert delivered == [(0, message)]


def test_an_error_in_the_decoder_breaks_no_link(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(payload: bytes) -> None:
        raise KeyError(payload)

    monkeypatch.setattr(tolerant_transport, "decode_message", fail)
    assert decoded_by_us(GOOD).undecodable == ("message",)
    assert [getattr(record, "event", None) for record in caplog.records] == ["servicebus.decoder_failed"]
    assert "id-1" not in caplog.text


async def test_the_adapters_clients_alone_use_the_transport() -> None:
    text = "Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true"
    adapters: Any = connect(ConnectionString(text), sdk_retries=0)
    others: Any = ServiceBusClient.from_connection_string(text)
    for client, transport in ((adapters, TolerantTransport), (others, PyamqpTransportAsync)):
        assert client.get_queue_receiver("queue")._amqp_transport is transport
        assert client.get_queue_receiver("queue", session_id="s")._amqp_transport is transport


@pytest.mark.parametrize(
    ("function", "uses"),
    [
        (PyamqpTransportAsync.create_receive_client_async, ["ReceiveClientAsync("]),
        (PyamqpTransportAsync.mgmt_client_request_async, ["callback(status, response, description, amqp_transport="]),
        (ReceiverLink._incoming_transfer, ["decode_payload(", "_process_incoming_message(", "frame[5]", "frame[11]"]),
        (ReceiverLink._process_incoming_message, ["self._on_transfer("]),
    ],
)
def test_the_sdk_still_has_the_places_where_the_transport_joins_it(function: Any, uses: list[str]) -> None:
    source = inspect.getsource(function)
    assert [use for use in uses if use not in source] == []
