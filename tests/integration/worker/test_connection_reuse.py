"""A connection that is kept for the next call: no byte of one request's host becomes the answer to another request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import pytest

from flow_contracts.servicebus.http_transport import EnvironmentProxyTransport
from flow_worker.errors import CallFailed
from flow_worker.flows.framing_limit import FramingLimit, StaleConnection
from flow_worker.flows.invoker import Invoker, http_client
from flow_worker.flows.registry import Flow

FORGED = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n"forged"'
LATE = {
    "a response": FORGED,
    "the end of an idle connection": b"HTTP/1.1 408 Request Time-out\r\nContent-Length: 0\r\n\r\n",
    "an interim response": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "the beginning of a response": FORGED[:20],
    "a line end": b"\r\n",
    "no HTTP": b"\0",
}


@dataclass
class Host:
    """Answers each request with its own body, and keeps the connections open."""

    url: str = ""
    behind: bytes = b""
    """Sent together with the end of the answer."""
    early: bytes = b""
    """Sent before the request was read as a whole."""
    ran: list[bytes] = field(default_factory=list)
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append((reader, writer))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                if self.early:
                    writer.write(self.early)
                    return
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or b"0"))
                self.ran.append(body)
                kind = b"Content-Type: application/json\r\n"
                writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n" % (kind, len(body)))
                if self.behind:  # so that the worker reads the head by itself
                    await writer.drain()
                    await asyncio.sleep(0.05)
                writer.write(body + self.behind)
        self.ended.set()

    @property
    def flow(self) -> Flow:
        return Flow("f", f"{self.url}/workflows/4f/triggers/m", "R", 10.0, idempotent=False)


class _Identity:
    async def token(self, *, fresh: bool = False) -> str:
        return "t" * 40


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    yield host
    server.close()
    for _, writer in host.connections:
        writer.transport.abort()


@pytest.fixture
async def invoker() -> AsyncIterator[Invoker]:
    async with Invoker(
        _Identity(),
        connect_seconds=5,
        max_connections=4,
        keepalive_seconds=15,
        status_seconds=10,
        max_response_bytes=1_000_000,
        decode_seconds=10,
    ) as invoker:
        yield invoker


async def call(invoker: Invoker, host: Host, input_: str) -> object:
    answer = await invoker.invoke(host.flow, input_, token="t" * 40, correlation_id="c", traceparent=None)
    return answer.content.output if answer.status == 200 else answer.status


@pytest.mark.parametrize("late", LATE.values(), ids=LATE)
@pytest.mark.parametrize("noticed", [True, False], ids=["before the next call", "at the next call"])
async def test_what_comes_after_an_answer_is_no_answer(
    invoker: Invoker, host: Host, late: bytes, noticed: bool
) -> None:
    assert await call(invoker, host, "first") == "first"
    host.connections[0][1].write(late)
    if noticed:
        await asyncio.wait_for(host.ended.wait(), 5)
    assert [await call(invoker, host, name) for name in ("second", "third")] == ["second", "third"]
    assert host.ran == [b'"first"', b'"second"', b'"third"'], "each once"
    assert len(host.connections) == 2, "the second connection is kept"


@pytest.mark.parametrize("behind", LATE.values(), ids=LATE)
async def test_what_comes_together_with_the_end_of_an_answer_is_no_answer(
    invoker: Invoker, host: Host, behind: bytes
) -> None:
    host.behind = behind
    assert await call(invoker, host, "first") == "first"
    assert await call(invoker, host, "second") == "second"
    assert len(host.connections) == (1 if behind == b"\r\n" else 2)  # empty lines may precede a response


async def test_a_connection_that_the_host_has_ended_costs_no_call(invoker: Invoker, host: Host) -> None:
    assert await call(invoker, host, "first") == "first"
    host.connections[0][1].close()
    assert await call(invoker, host, "second") == "second"
    assert host.ran == [b'"first"', b'"second"']


@pytest.mark.filterwarnings("ignore:Sending a large body")
@pytest.mark.parametrize(("status", "ends_as"), [("200 OK", None), ("202 Accepted", None), ("413 Too Large", 413)])
async def test_only_an_error_can_answer_a_request_that_is_not_sent_yet(
    invoker: Invoker, host: Host, status: str, ends_as: int | None
) -> None:
    host.early = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    large = "a" * 30_000_000
    if ends_as is None:
        with pytest.raises(CallFailed) as failure:
            await call(invoker, host, large)
        assert (failure.value.code, failure.value.may_have_run) == ("flow_no_answer", True)
    else:
        assert await call(invoker, host, large) == ends_as
    host.early = b""
    assert await call(invoker, host, "second") == "second"
    assert (len(host.connections), host.ran) == (2, [b'"second"'])


async def test_the_clients_of_issuers_and_dataverse_have_the_same_wall(host: Host) -> None:
    async with http_client(connect_seconds=5, max_connections=2, keepalive_seconds=15) as client:
        for body in (b"1", b"2"):
            assert (await client.post(host.url, content=body)).content == body
            host.connections[0][1].write(FORGED)
        assert len(host.connections) == 2


async def test_the_identitys_endpoint_gets_a_connection_for_each_request(host: Host) -> None:
    async with EnvironmentProxyTransport(keep_alive=False) as transport:
        for _ in range(2):
            assert transport.session is not None
            async with transport.session.post(host.url, data=b"1") as response:
                assert await response.read() == b"1"
    assert len(host.connections) == 2


async def test_a_host_that_speaks_first_is_sent_nothing() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    connection = await _connected(listening.getsockname()[1])
    peer, _ = listening.accept()
    with listening, peer:
        closed = connection.closed
        assert closed is not None
        peer.sendall(FORGED)
        await asyncio.wait_for(closed, 5)
        connection.set_response_params()
        with pytest.raises(StaleConnection):
            connection.begin_sending()


async def test_unread_bytes_are_noticed_before_asyncio_reads_them() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    connection = await _connected(listening.getsockname()[1])
    peer, _ = listening.accept()
    with listening, peer:
        connection.set_response_params()
        connection.begin_sending()
        connection.start_timeout()
        connection.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert connection.is_connected()
        peer.sendall(b"H")
        assert not connection.is_connected()
        connection.abort()


async def test_a_call_fails_as_not_sent_if_every_connection_is_stale(
    invoker: Invoker, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FramingLimit, "_stale", True)
    with pytest.raises(CallFailed) as failure:
        await call(invoker, host, "first")
    assert (failure.value.code, failure.value.may_have_run) == ("flow_unreachable", False)
    async with http_client(connect_seconds=5, max_connections=2, keepalive_seconds=15) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(host.url)
    assert host.ran == []


async def _connected(port: int) -> FramingLimit:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: FramingLimit(loop=loop), "127.0.0.1", port)
    return protocol
