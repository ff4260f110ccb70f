"""Bodies in tiny pieces, unusual heads and a stop in the middle of uploads hold up nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from flow_worker.gateway import uploads
from tests.support.http_gateway import HttpGateway, running_http_gateway
from tests.support.system import until
from tests.unit.gateway.test_http_abuse import HEAD, START, answer_to, connections, raw

CHUNKED = HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
STRANGER = CHUNKED.replace(b"Authorization: Bearer ada\r\n", b"")
TINY = b"1\r\n \r\n" * 100_000
MAX_PAUSE_SECONDS = 0.1
CONNECTIONS = 4


async def longest_pause(gateway: HttpGateway, sent: bytes) -> tuple[float, list[bytes]]:
    """Return the longest time that one turn of the loop took of the processor, and the start of each answer."""
    clients = ThreadPoolExecutor(CONNECTIONS)
    loop = asyncio.get_running_loop()
    attacks = asyncio.gather(*(loop.run_in_executor(clients, _send, gateway, sent) for _ in range(CONNECTIONS)))
    longest, begun = 0.0, time.thread_time()
    while not attacks.done():
        await asyncio.sleep(0.001)
        longest, begun = max(longest, time.thread_time() - begun), time.thread_time()
    clients.shutdown()
    return longest, await attacks


def _send(gateway: HttpGateway, sent: bytes) -> bytes:
    with socket.create_connection(gateway.server.address) as client:
        client.settimeout(10)
        with contextlib.suppress(OSError):  # the gateway has closed
            client.sendall(sent)
        try:
            return client.recv(65536)
        except OSError:
            return b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(CHUNKED + TINY, b"400", id="chunks"),
        pytest.param(STRANGER + TINY, b"401", id="chunks of a stranger"),
        pytest.param(CHUNKED + b"1;x=y\r\n \r\n" * 60_000, b"400", id="chunk extensions"),
        pytest.param(CHUNKED + (b"1;" + b"x" * 6000 + b"\r\n \r\n") * 100, b"400", id="long chunk extensions"),
        pytest.param(CHUNKED + b"0\r\n" + b"A: b\r\n" * 100_000, b"400", id="trailers"),
        pytest.param(HEAD + b"A: b\r\n" * 100_000, b"4", id="header fields"),
        pytest.param(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 2000, b"404", id="requests without a pause"),
        pytest.param(b"\r\n" * 300_000, b"4", id="empty lines"),
    ],
)
async def test_tiny_pieces_never_hold_the_loop(sent: bytes, status: bytes) -> None:
    async with running_http_gateway(body_seconds=5) as gateway:
        pause, answers = await longest_pause(gateway, sent)
        async with gateway.client("bob") as bob:
            assert (await bob.post(START, json={})).status_code == 202
    assert pause < MAX_PAUSE_SECONDS
    # A client that sends on may lose the answer with the connection.
    assert all(not answer or answer.split(b" ")[1].startswith(status) for answer in answers)


async def test_a_body_in_too_many_pieces_is_a_problem_that_the_client_reads() -> None:
    async with running_http_gateway(body_seconds=5) as gateway:
        found = await answer_to(gateway, CHUNKED + TINY[:60_000])
    assert found.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in found
    assert b"too many small pieces" in found
    assert b"Connection: close" in found


async def test_parts_that_arrive_alone_count_as_pieces() -> None:
    head = HEAD + b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    async with running_http_gateway(body_seconds=5) as gateway:
        reader, writer = await raw(gateway)
        writer.write(head)
        await until(lambda: any(one._current_request for one in connections(gateway)))
        for _ in range(2000):  # as the network would deliver them; it may also join them
            connections(gateway)[0].data_received(b" ")
        async with asyncio.timeout(10):
            assert b" 400 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize("size", [1, 8, 60])
async def test_a_short_body_may_come_in_pieces_of_any_size(size: int) -> None:
    body = json.dumps({"customer": "x" * 400}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(body, size))
    async with running_http_gateway(body_seconds=5) as gateway:
        sent = CHUNKED.replace(b"Host: gateway\r\n", b"Host: gateway\r\nConnection: close\r\n") + chunks + b"0\r\n\r\n"
        found = await answer_to(gateway, sent)
    assert found.startswith(b"HTTP/1.1 202")


async def test_a_large_body_may_have_many_lines_and_usual_chunks() -> None:
    body = b'{\r\n"customer": [' + b"1,\r\n" * 9000 + b"1]}"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in _parts(body, 128)) + b"0\r\n\r\n"
    close = CHUNKED.replace(b"Host: gateway\r\n", b"Host: gateway\r\nConnection: close\r\n").replace(
        START.encode(), b"/v1/flows/free-form/requests"
    )
    length = b"Content-Length: %d" % len(body)
    async with running_http_gateway(body_seconds=5) as gateway:
        for sent in (close + chunks, close.replace(b"Transfer-Encoding: chunked", length) + body):
            assert (await answer_to(gateway, sent)).startswith(b"HTTP/1.1 202")


def _parts(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize("target", [START, "/v1/flows", "/nothing"])
async def test_an_unknown_expectation_is_a_problem(target: str) -> None:
    async with running_http_gateway() as gateway, gateway.client() as ada:
        found = await ada.request("POST" if target == START else "GET", target, headers={"Expect": "a-secret-thing"})
    assert found.status_code == 417
    assert found.headers["Content-Type"] == "application/problem+json"
    assert found.headers["Cache-Control"] == "no-store"
    assert found.json()["code"] == "expectation_failed"
    assert "secret" not in found.text


async def test_a_stranger_is_refused_before_it_sends_the_body_it_announced() -> None:
    expecting = b"Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    async with running_http_gateway(body_seconds=0.5) as gateway:
        head = HEAD.replace(b"Bearer ada", b"Bearer nobody")
        assert await first_line(gateway, head + expecting) == b"HTTP/1.1 401 Unauthorized\r\n"
        reader, writer = await raw(gateway)
        writer.write(HEAD + expecting)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert b" 202 " in await reader.readline()
        writer.close()
        reader, writer = await raw(gateway)  # and then no body comes
        writer.write(HEAD + expecting)
        await reader.readuntil(b"\r\n\r\n")
        assert b" 408 " in await reader.readline()
        writer.close()


async def first_line(gateway: HttpGateway, sent: bytes) -> bytes:
    reader, writer = await raw(gateway)
    writer.write(sent)
    line = await reader.readline()
    writer.close()
    return line


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET /v1/flows HTTP/1.0\r\nAuthorization: Bearer ada\r\n\r\n", b"HTTP/1.0 200"),
        (b"GET /v1/flows HTTP/1.0\r\n\r\n", b"HTTP/1.0 401"),
        (
            b"GET /v1/flows HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            b"HTTP/1.1 401",
        ),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.0 400"),
    ],
)
async def test_other_versions_and_protocols_get_an_answer(head: bytes, expected: bytes) -> None:
    async with running_http_gateway() as gateway:
        reader, writer = await raw(gateway)
        writer.write(head)
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(expected)
        writer.write(b"\x81\x85" * 50_000)  # frames of a protocol that the gateway did not accept
        writer.close()
        async with gateway.client() as ada:
            assert (await ada.get("/v1/flows")).status_code == 200


async def test_slow_uploads_do_not_hold_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_DRAIN_SECONDS", 0.3)
    begun = HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    async with running_http_gateway(body_seconds=60) as gateway:
        slow = [await raw(gateway) for _ in range(5)]
        for _, writer in slow:
            writer.write(begun)
        await until(lambda: sum(bool(one._current_request) for one in connections(gateway)) == len(slow))
        gateway.server.stop()
        async with asyncio.timeout(5):
            for reader, _ in slow:
                assert b" 503 " in await reader.readline()
            for _, writer in slow:
                writer.close()
            await gateway.task
        assert not gateway.queue.messages


async def test_an_upload_that_ends_in_time_is_still_accepted_during_the_stop() -> None:
    body = HEAD + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{"
    async with running_http_gateway(body_seconds=60) as gateway:
        reader, writer = await raw(gateway)
        writer.write(body)
        await until(lambda: any(one._current_request for one in connections(gateway)))
        gateway.server.stop()
        await asyncio.sleep(0)
        writer.write(b"}")
        async with asyncio.timeout(5):
            assert b" 202 " in await reader.readline()
        writer.close()
        assert len(gateway.queue.messages) == 1
