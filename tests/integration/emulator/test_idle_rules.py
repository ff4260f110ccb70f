"""The rules of the service for idle connections and the connection limit, over real sockets with short times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusConnectionError

from servicebus_emulator.amqp.performatives import Close, Detach, Flow, Open
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.entities.queue_settings import QueueSettings
from servicebus_emulator.transport.addresses import connection_string
from servicebus_emulator.transport.amqp_server import AmqpServer
from servicebus_emulator.transport.connection_rules import ConnectionRules
from tests.support.amqp_client import Client, SocketWire, WebSocketWire, connect

HOST = "127.0.0.1"
SHORT = 0.4


@asynccontextmanager
async def serving(rules: ConnectionRules) -> AsyncIterator[int]:
    """Run a server with these rules; yield its port."""
    server = AmqpServer(Broker([QueueSettings("q")]), rules=rules)
    try:
        yield await server.start(HOST, 0)
    finally:
        await server.stop()


@asynccontextmanager
async def client(port: int) -> AsyncIterator[tuple[Client, SocketWire]]:
    one, stream = await connect(HOST, port)
    try:
        yield one, stream
    finally:
        await stream.close()


async def closed_with(one: Client) -> str | None:
    """Return the condition of the close frame, and wait until the server disconnects."""
    error = (await one.receive(Close)).error
    with pytest.raises(EOFError):
        await one.receive(Close)
    return error.condition if error else None


async def test_a_client_that_sends_nothing_is_disconnected() -> None:
    async with serving(ConnectionRules(first_link_within_seconds=SHORT)) as port, client(port) as (one, _):
        with pytest.raises(EOFError):
            await one.receive(Open)


async def test_only_a_client_that_requests_no_websocket_is_disconnected() -> None:
    server = AmqpServer(Broker([QueueSettings("q")]), rules=ConnectionRules(first_link_within_seconds=SHORT))
    port = await server.start_websocket(HOST, 0)
    try:
        async with (
            client(port) as (one, _),
            aiohttp.ClientSession() as session,
            session.ws_connect(f"ws://{HOST}:{port}/$servicebus/websocket") as socket,
        ):
            friend = await (await Client(WebSocketWire(socket)).open()).attach("q")
            with pytest.raises((EOFError, ConnectionError)):
                await one.receive(Open)
            await friend.attach("q", 1)
    finally:
        await server.stop()


async def test_only_a_connection_without_links_is_closed() -> None:
    rules = ConnectionRules(first_link_within_seconds=SHORT, linkless_seconds=SHORT)
    async with serving(rules) as port, client(port) as (one, _), client(port) as (other, _):
        await (await other.open()).attach("q")
        await one.open()
        assert await closed_with(one) == "amqp:connection:forced"
        await other.send(Detach(0, closed=True))
        await other.receive(Detach)
        assert await closed_with(other) == "amqp:connection:forced"


async def test_only_an_idle_link_is_detached() -> None:
    async with serving(ConnectionRules(idle_link_seconds=SHORT)) as port, client(port) as (one, _):
        await one.open()
        await one.attach("q", 0)
        await one.attach("q", 1, receives=False)

        async def use() -> None:
            for _ in range(20):
                await one.send(Flow(0, 1000, 0, 1000, handle=0, delivery_count=0, link_credit=1))
                await asyncio.sleep(SHORT / 8)

        using = asyncio.create_task(use())
        detached = await one.receive(Detach)
        assert detached.error is not None
        assert (detached.handle, detached.error.condition) == (1, "amqp:link:detach-forced")
        assert not using.done(), "the link was detached while the other was in use"
        await using
        detached = await one.receive(Detach)
        assert detached.handle == 0


async def test_only_a_peer_without_heartbeats_is_closed() -> None:
    async with (
        serving(ConnectionRules(idle_timeout_seconds=SHORT)) as port,
        client(port) as (silent, _),
        client(port) as (beating, _),
    ):
        for one in (silent, beating):
            await (await one.open()).attach("q")

        async def beat() -> None:
            while True:
                await beating.heartbeat()
                await asyncio.sleep(SHORT / 8)

        beats = asyncio.create_task(beat())
        assert await closed_with(silent) == "amqp:resource-limit-exceeded"
        await asyncio.sleep(SHORT)  # the limit once more
        await beating.attach("q", 1)
        beats.cancel()


async def test_a_connection_above_the_limit_is_refused_until_another_one_closes() -> None:
    async with serving(ConnectionRules(max_connections=1)) as port:
        sdk = ServiceBusClient.from_connection_string(connection_string(HOST, port), retry_total=0)
        async with client(port) as (first, _):
            await (await first.open()).attach("q")
            async with client(port) as (second, _):
                await second.send(Open("second"), header=True)
                assert await closed_with(second) == "amqp:resource-limit-exceeded"
            with pytest.raises(ServiceBusConnectionError, match="There are 1 connections"):
                async with sdk, sdk.get_queue_sender("q"):
                    pass
            await first.attach("q", 1)
        async with client(port) as (third, _):
            await (await third.open()).attach("q")
