"""AMQP over TLS and WebSocket: the unmodified azure-servicebus on every transport, and clients that misbehave."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from azure.servicebus import ServiceBusClient, ServiceBusMessage, TransportType
from azure.servicebus.aio import ServiceBusClient as AsyncClient
from azure.servicebus.exceptions import ServiceBusError

from servicebus_emulator import config
from servicebus_emulator.amqp.framing import AMQP_HEADER
from servicebus_emulator.amqp.performatives import Begin, Close, Open, Transfer
from servicebus_emulator.host import CannotListen, Endpoints, running_emulator
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.transport.addresses import AmqpAddresses, connection_string
from servicebus_emulator.transport.amqp_server import AmqpServer
from servicebus_emulator.transport.tls import CertificateFiles, server_tls
from servicebus_emulator.transport.tls_context import ServerTls
from servicebus_emulator.transport.websocket import MAX_MESSAGE_BYTES
from tests.support.amqp_client import Client, SocketWire, WebSocketWire, connect
from tests.unit.emulator.amqp.peer import framed
from tests.unit.emulator.servicebus.rig import message

HOST = "127.0.0.1"
SECONDS = 10.0
QUEUE = "flow-requests"
BIG = 200_000
"""Bytes of a message that takes many frames."""
MANY = 300
CLOUD = "Endpoint=sb://localhost;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE"
"""A connection string without the emulator's flag, so that the SDK speaks TLS."""
OPEN = AMQP_HEADER + framed(Open("client")) + framed(Begin(None, 0, 1000, 1000))


@dataclass(frozen=True)
class Bus:
    """A running Service Bus on every transport."""

    broker: Broker
    server: AmqpServer
    amqp_port: int
    addresses: AmqpAddresses


@asynccontextmanager
async def running_bus(tls: ServerTls) -> AsyncIterator[Bus]:
    broker = Broker([QueueSettings(QUEUE)])
    server = AmqpServer(broker)
    try:
        plain = await server.start(HOST, 0)
        amqps = await server.start(HOST, 0, tls=tls.context)
        ws = await server.start_websocket(HOST, 0)
        wss = await server.start_websocket(HOST, 0, tls=tls.context)
        yield Bus(broker, server, plain, AmqpAddresses(HOST, amqps, ws, wss, tls.ca_certificate))
    finally:
        await server.stop()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return server_tls(CertificateFiles(tmp_path_factory.mktemp("certificates")), HOST)


@pytest.fixture
async def bus(tls: ServerTls) -> AsyncIterator[Bus]:
    """A Service Bus in the event loop of the test."""
    async with running_bus(tls) as running:
        yield running


@pytest.fixture(scope="module")
def bus_in_thread(tls: ServerTls) -> Iterator[Bus]:
    """A Service Bus in a separate thread, for clients that block."""
    started: list[Bus] = []
    up, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with running_bus(tls) as running:
            started.append(running)
            up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="emulator")
    thread.start()
    try:
        assert up.wait(SECONDS), "the emulator did not start"
        yield started[0]
    finally:
        stop.set()
        thread.join(SECONDS)


# --- the SDK --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SdkConnection:
    """The connection string and the options of an SDK client."""

    connection_string: str
    options: Mapping[str, Any]


def sdk_connections(bus: Bus) -> dict[str, SdkConnection]:
    over_websocket = {"transport_type": TransportType.AmqpOverWebsocket}
    trusting = {"connection_verify": str(bus.addresses.ca_certificate)}
    ws, wss = (f"sb://localhost:{port}" for port in (bus.addresses.ws_port, bus.addresses.wss_port))
    emulators = connection_string(HOST, bus.amqp_port)
    return {
        "tls": SdkConnection(CLOUD, trusting),
        "ws": SdkConnection(emulators, over_websocket | {"custom_endpoint_address": ws}),
        "wss": SdkConnection(CLOUD, over_websocket | trusting | {"custom_endpoint_address": wss}),
    }


@pytest.fixture
def tls_port(bus_in_thread: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect the SDK, which has port 5671 built in for TLS, to the port of the emulator."""
    for module in ("_connection", "aio._connection_async"):
        monkeypatch.setattr(f"azure.servicebus._pyamqp.{module}.SECURE_PORT", bus_in_thread.addresses.amqps_port)


def round_trip(connection: SdkConnection, text: str) -> bool:
    """Send and receive a large message with the blocking client; return True if it is the same."""
    client = ServiceBusClient.from_connection_string(connection.connection_string, retry_total=0, **connection.options)
    with client, client.get_queue_sender(QUEUE) as sender, client.get_queue_receiver(QUEUE) as receiver:
        sender.send_messages(ServiceBusMessage(text))
        (got,) = receiver.receive_messages(max_wait_time=5)
        receiver.complete_message(got)
        return str(got) == text


async def round_trip_async(connection: SdkConnection, text: str) -> bool:
    """Send and receive a large message with the asyncio client; return True if it is the same."""
    client = AsyncClient.from_connection_string(connection.connection_string, retry_total=0, **connection.options)
    async with client, client.get_queue_sender(QUEUE) as sender, client.get_queue_receiver(QUEUE) as receiver:
        await sender.send_messages(ServiceBusMessage(text))
        (got,) = await receiver.receive_messages(max_wait_time=5)
        await receiver.complete_message(got)
        return str(got) == text


@pytest.mark.usefixtures("tls_port")
@pytest.mark.parametrize("name", ["tls", "ws", "wss"])
def test_the_blocking_sdk_sends_and_receives(bus_in_thread: Bus, name: str) -> None:
    if name != "tls":
        pytest.importorskip("websocket", reason="the blocking SDK needs websocket-client for WebSockets")
    assert round_trip(sdk_connections(bus_in_thread)[name], (name * BIG)[:BIG])


@pytest.mark.usefixtures("tls_port")
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", ["tls", "ws", "wss"])
async def test_the_asyncio_sdk_sends_and_receives(bus_in_thread: Bus, name: str) -> None:
    assert await round_trip_async(sdk_connections(bus_in_thread)[name], (name * BIG)[:BIG])


@pytest.mark.usefixtures("tls_port")
def test_a_client_that_does_not_trust_the_authority_refuses_the_server(bus_in_thread: Bus) -> None:
    with pytest.raises(ServiceBusError, match=r"(?i)certificate"):
        round_trip(SdkConnection(CLOUD, {}), "never sent")


# --- raw WebSockets -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def websocket(
    bus: Bus, path: str = "/$servicebus/websocket", protocol: str = "AMQPWSB10", **options: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    url = f"ws://{HOST}:{bus.addresses.ws_port}{path}"
    protocols = [protocol] if protocol else []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=protocols, **options) as socket,
    ):
        yield socket


@pytest.mark.parametrize("path", ["/$servicebus/websocket", "/$servicebus/websocket/", "/%24servicebus/websocket"])
@pytest.mark.parametrize("protocol", ["AMQPWSB10", "amqp", ""])
async def test_path_and_subprotocols_are_those_of_the_service(bus: Bus, path: str, protocol: str) -> None:
    async with websocket(bus, path, protocol) as socket:
        assert (socket.protocol or "") == protocol
        await socket.send_bytes(AMQP_HEADER)
        assert await socket.receive_bytes(timeout=SECONDS) == AMQP_HEADER


async def test_a_request_that_is_no_amqp_websocket_is_refused_with_the_remedy(bus: Bus) -> None:
    at = f"http://{HOST}:{bus.addresses.ws_port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{at}/$servicebus/websocket") as answer:
            assert answer.status == 400
        async with session.get(f"{at}/elsewhere") as answer:
            assert answer.status == 404
        async with session.get(
            f"{at}/$servicebus/websocket", headers={"Sec-WebSocket-Protocol": "mqtt, chat"}
        ) as answer:
            assert (answer.status, "AMQPWSB10, amqp" in await answer.text()) == (400, True)


async def test_frames_may_span_messages_or_share_one(bus: Bus) -> None:
    async with websocket(bus) as first, websocket(bus) as second:
        for byte in OPEN:
            await first.send_bytes(bytes([byte]))
        await second.send_bytes(OPEN)
        for socket in (first, second):
            await Client(WebSocketWire(socket)).receive(Begin)


async def test_text_is_refused_with_1003(bus: Bus) -> None:
    async with websocket(bus) as socket:
        await socket.send_str("AMQP")
        assert (await socket.receive(timeout=SECONDS)).type is WSMsgType.CLOSE
        assert socket.close_code == 1003


async def test_a_message_above_the_limit_is_refused_with_1009_before_it_is_received(bus: Bus) -> None:
    stream = SocketWire(*await asyncio.open_connection(HOST, bus.addresses.ws_port))
    await stream.send(
        b"GET /$servicebus/websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert b" 101 " in await stream.receive()
    await stream.send(b"\x82\xff" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big") + b"mask" + b"the start of it")
    close_frame = await stream.receive()
    assert (close_frame[0], int.from_bytes(close_frame[2:4], "big")) == (0x88, 1009)
    await stream.close()


async def test_a_ping_is_answered(bus: Bus) -> None:
    async with websocket(bus, autoping=False) as socket:
        await socket.ping(b"there?")
        got = await socket.receive(timeout=SECONDS)
        assert (got.type, got.data) == (WSMsgType.PONG, b"there?")


async def test_a_client_that_does_not_read_gets_a_bounded_amount_until_it_reads(bus: Bus) -> None:
    queue = bus.broker.find(QUEUE)
    async with websocket(bus, max_msg_size=1024 * 1024) as socket:
        wire = WebSocketWire(socket)
        client = await Client(wire).open()
        await client.attach(QUEUE)
        await client.grant_credit(1_000_000)
        for _ in range(MANY // 10):
            queue.send([message("x" * BIG) for _ in range(10)])
            await asyncio.sleep(0)
        delivered = [message for message in queue.peek(1, MANY, None) if message.lock_token is not None]
        assert 0 < len(delivered) < MANY
        received = 0
        while received < MANY:
            received += not (await client.receive(Transfer)).more
    assert wire.largest <= 256 * 1024, "some clients accept no larger messages"


async def test_a_client_that_disconnects_in_the_middle_of_a_frame_takes_no_message(bus: Bus) -> None:
    async with websocket(bus) as socket:
        client = await Client(WebSocketWire(socket)).open()
        await client.attach(QUEUE)
        await client.grant_credit(10)
        await socket.send_bytes(b"\x00\x00")
    bus.broker.find(QUEUE).send([message("x")])
    async with websocket(bus) as socket:
        client = await (await Client(WebSocketWire(socket)).open()).attach(QUEUE)
        await client.grant_credit(1)
        await client.receive(Transfer)


async def test_clients_get_a_close_frame_when_the_emulator_stops(bus: Bus) -> None:
    async with websocket(bus) as socket:
        client = await (await Client(WebSocketWire(socket)).open()).attach(QUEUE)
        stopping = asyncio.create_task(bus.server.stop())
        error = (await client.receive(Close)).error
        assert error is not None
        assert error.condition == "amqp:connection:forced"
        assert (await socket.receive(timeout=SECONDS)).type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
        assert socket.close_code == 1000
        await stopping


async def test_dropped_connections_end_without_a_close_frame(bus: Bus) -> None:
    async with websocket(bus) as socket:
        await Client(WebSocketWire(socket)).open()
        bus.server.drop_connections()
        assert (await socket.receive(timeout=SECONDS)).type in (WSMsgType.ERROR, WSMsgType.CLOSED)
        assert socket.close_code == 1006


async def test_a_frozen_emulator_keeps_the_websocket_and_continues_after_thaw(bus: Bus) -> None:
    async with websocket(bus) as socket:
        bus.server.freeze()
        await socket.send_bytes(OPEN)
        with pytest.raises(TimeoutError):
            await socket.receive(timeout=0.2)
        bus.server.thaw()
        await Client(WebSocketWire(socket)).receive(Begin)


# --- raw TLS --------------------------------------------------------------------------------------------------------


async def test_a_client_that_sends_plain_amqp_to_the_tls_port_is_disconnected_and_others_are_served(bus: Bus) -> None:
    port = bus.addresses.amqps_port
    plain_client, plain_stream = await connect(HOST, port or 0)
    await plain_client.wire.send(AMQP_HEADER + bytes(64))
    trusting = ssl.create_default_context(cafile=bus.addresses.ca_certificate)
    tls_stream = SocketWire(*await asyncio.open_connection("localhost", port, ssl=trusting))
    await Client(tls_stream).open()
    with pytest.raises(EOFError):
        await plain_client.receive(Open)
    for stream in (plain_stream, tls_stream):
        await stream.close()


# --- the whole emulator ---------------------------------------------------------------------------------------------


async def test_the_ready_line_has_the_addresses_and_the_authority_to_trust(tmp_path: Path) -> None:
    everything = Endpoints(HOST, 0, 0, 0, 0, 0, CertificateFiles(tmp_path))
    async with running_emulator(config.load(), everything) as emulator:
        ready, bound = emulator.ready(), emulator.addresses
        assert ready["amqps_url"] == f"amqps://{HOST}:{bound.amqps_port}"
        assert f"Endpoint=sb://{HOST}:{bound.amqps_port};" in str(ready["amqps_connection_string"])
        assert ready["ws_url"] == f"ws://{HOST}:{bound.ws_port}/$servicebus/websocket"
        assert ready["wss_url"] == f"wss://{HOST}:{bound.wss_port}/$servicebus/websocket"
        trusting = ssl.create_default_context(cafile=ready["ca_certificate"])
        async with aiohttp.ClientSession() as session, session.ws_connect(str(ready["wss_url"]), ssl=trusting) as one:
            await Client(WebSocketWire(one)).open()


async def test_a_transport_that_is_off_is_null_in_the_ready_line() -> None:
    async with running_emulator(config.load(), Endpoints(HOST, 0, 0)) as emulator:
        names = ("amqps_url", "amqps_connection_string", "ws_url", "wss_url", "ca_certificate")
        assert [emulator.ready()[name] for name in names] == [None] * 5


async def test_a_port_in_use_is_named_with_its_option(bus: Bus) -> None:
    port = bus.addresses.ws_port
    with pytest.raises(CannotListen, match=f"{HOST}:{port}: .*--ws-port"):
        async with running_emulator(config.load(), Endpoints(HOST, 0, 0, ws_port=port)):
            pass


def test_wildcard_and_ipv6_hosts_are_reported_as_usable_urls() -> None:
    assert AmqpAddresses("0.0.0.0", 1, None, None, None).ready()["amqps_url"] == "amqps://localhost:1"  # noqa: S104
    assert AmqpAddresses("::1", None, 2, None, None).ready()["ws_url"] == "ws://[::1]:2/$servicebus/websocket"
