"""Slow, silent, malformed and numerous clients hold nothing up."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from aiohttp import web
from pydantic import SecretStr

from flow_contracts import strict_json
from flow_worker.access.authorities import Evidence
from flow_worker.gateway import submissions
from flow_worker.gateway.callers import Acting, Caller
from flow_worker.gateway.store.port import PrincipalId, StoredResult
from flow_worker.gateway.submissions import Submission
from tests.support.http_gateway import TENANT, USERS, FakeAuthority, HttpGateway, running_http_gateway
from tests.support.system import until

START = "/v1/flows/create-quote/requests"
HEAD = b"POST " + START.encode() + b" HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer ada\r\n"


async def raw(gateway: HttpGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = gateway.server.address
    return await asyncio.open_connection(host, port)


async def answer_to(gateway: HttpGateway, data: bytes) -> bytes:
    """Return all that the gateway sends before it closes the connection."""
    reader, writer = await raw(gateway)
    writer.write(data)
    async with asyncio.timeout(10):
        found = await reader.read()
    writer.close()
    return found


@pytest.mark.parametrize("sent", [b"GET /", HEAD, b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 20])
async def test_a_head_that_does_not_end_closes_the_connection(sent: bytes) -> None:
    async with running_http_gateway(header_seconds=0.3) as gateway:
        reader, writer = await raw(gateway)
        writer.write(sent)
        began = time.monotonic()

        async def drip() -> None:
            while True:
                await asyncio.sleep(0.05)
                writer.write(b"X")

        dripping = asyncio.create_task(drip())
        try:
            async with asyncio.timeout(10):
                assert await reader.read() == b""
        except ConnectionResetError:
            pass
        finally:
            dripping.cancel()
            writer.close()
        assert time.monotonic() - began < 5


async def test_a_second_head_on_one_connection_has_its_deadline_too() -> None:
    async with running_http_gateway(header_seconds=0.3, idle_seconds=60) as gateway:
        reader, writer = await raw(gateway)
        writer.write(b"GET /v1/flows HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ada\r\n\r\n")
        assert b"200" in await reader.readline()
        await asyncio.sleep(0.5)  # an idle connection stays
        writer.write(b"GET /v1/flows HTTP/1.1\r\n")
        async with asyncio.timeout(10):
            try:
                rest = await reader.read()
            except ConnectionResetError:
                rest = b""
        assert b"HTTP/1.1" not in rest
        writer.close()


async def test_an_idle_connection_is_closed() -> None:
    async with running_http_gateway(idle_seconds=0.3) as gateway:
        reader, writer = await raw(gateway)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_a_body_that_does_not_arrive_is_answered_with_408() -> None:
    async with running_http_gateway(body_seconds=0.3) as gateway:
        found = await answer_to(gateway, HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    assert found.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in found


async def test_a_client_that_does_not_read_its_result_is_cut_off() -> None:
    async with running_http_gateway(write_seconds=1.5) as gateway, gateway.client() as ada:
        request_id = (await ada.post(START, json={})).json()["id"]
        body = json.dumps({"output": "x" * 12_000_000}).encode()
        await gateway.store.put_result(request_id, StoredResult(body, datetime.now(UTC)))
        _, writer = await raw(gateway)
        path = f"/v1/requests/{request_id}"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ada\r\n\r\n".encode())
        await until(lambda: gateway.server.connections == 2)
        await until(lambda: gateway.server.connections == 1)
        assert len((await ada.get(path)).content) == len(body)
        writer.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50, 400),
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /v1/flows HTTP/1.1\r\nHost: a\r\nX-Secret: " + b"s" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /v1/flows HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 500 + b"\r\n", 400),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
        (HEAD + b"Bad Header: x\r\n\r\n", 400),
    ],
)
async def test_malformed_http_is_a_problem_without_details(
    data: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_http_gateway() as gateway:
        found = await answer_to(gateway, data)
    head, _, body = found.partition(b"\r\n\r\n")
    assert int(head.split(b" ")[1]) == status
    assert b"aiohttp" not in head
    assert json.loads(body)["code"] in ("malformed_request", "header_too_large")
    assert b"ssss" not in found
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


async def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    async with running_http_gateway(max_connections=3) as gateway:
        opened = [await raw(gateway) for _ in range(3)]
        await until(lambda: gateway.server.connections == 3)
        reader, writer = await raw(gateway)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        for _, one in (*opened, (reader, writer)):
            one.close()
        await until(lambda: gateway.server.connections == 0)
        async with gateway.client() as ada:
            assert (await ada.get("/v1/flows")).status_code == 200


async def test_a_strange_host_breaks_nothing() -> None:
    async with running_http_gateway() as gateway:
        for host in (b"", b"[::1", b"a b", b"\xff", b"evil.example:99999"):
            data = b"GET /openapi.json HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
            assert (await answer_to(gateway, data)).split(b" ")[1] in (b"200", b"400")
        for target in (b"*", b"//x", b"http://[bad/", b"/%ff%fe", b"/v1/requests/%00"):
            data = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ada\r\nConnection: close\r\n\r\n"
            assert (await answer_to(gateway, data)).split(b" ")[1] in (b"400", b"404")


@pytest.mark.parametrize(
    "earlier", [b"", b"GET /v1/requests/%b?wait=1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ada\r\n\r\n"]
)
async def test_the_size_of_a_head_is_bounded_although_each_field_is_short(earlier: bytes) -> None:
    """With `earlier`, the head comes while the response to an earlier request is under way."""
    fields = b"".join(b"X-%d: " % number + b"x" * 10_000 + b"\r\n" for number in range(100))
    async with running_http_gateway(max_header_bytes=32 * 1024) as gateway, gateway.client() as ada:
        request_id = (await ada.post(START, json={})).json()["id"]
        earlier = earlier.replace(b"%b", request_id.encode())
        found = await answer_to(gateway, earlier + b"GET / HTTP/1.1\r\n" + fields)
        assert (await ada.get("/v1/flows", headers={"X-Long": "x" * 30_000})).status_code == 200
        large = json.dumps({"customer": "x" * 500_000})  # a body is no head
        for content in (large, large, chunked(large.encode())):
            posted = await ada.post(START, content=content, headers={"Content-Type": "application/json"})
            assert posted.status_code == 202
    assert found.startswith(b"HTTP/1.1 202" if earlier else b"HTTP/1.0 431")
    assert found.count(b" 431 ") == 1


async def chunked(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


async def test_bodies_that_never_end_take_no_place_from_others() -> None:
    begun = HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    running = running_http_gateway(max_active_requests=2, max_uploads_per_caller=3, body_seconds=20)
    async with running as gateway, gateway.client("bob") as bob:
        slow = [await raw(gateway) for _ in range(4)]
        for _, writer in slow[:3]:
            writer.write(begun)
        await until(lambda: gateway.server.connections == 4)
        assert (await bob.post(START, json={})).status_code == 202
        slow[3][1].write(begun)
        assert b" 429 " in await slow[3][0].readline()
        for _, writer in slow:
            writer.close()
        await until(lambda: gateway.server.connections == 1)


async def test_the_rest_of_a_refused_body_is_not_parsed() -> None:
    head = b"POST " + START.encode() + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with running_http_gateway() as gateway:
        # The second chunk and the second request are no valid HTTP.
        reader, writer = await raw(gateway)
        writer.write(head + b"1\r\na\r\n")
        found = await reader.readuntil(b"claim_missing")
        writer.write(b"no chunk\r\n" * 100_000 + b"\x00\r\n\r\n")
        async with asyncio.timeout(10):
            assert b"HTTP/1.1" not in await reader.read()
        writer.close()
        async with gateway.client("nobody") as nobody:  # it reads the response although it sends on
            for _ in range(2):
                refused = await nobody.post(START, content=chunked(b"x" * 500_000))
                assert refused.status_code == 401
    assert found.startswith(b"HTTP/1.1 401")
    assert b"Connection: close" in found


async def test_tokens_that_wait_for_the_issuer_take_no_place_from_others() -> None:
    async with running_http_gateway(max_active_requests=2) as gateway, gateway.client() as ada:
        waiting = [await raw(gateway) for _ in range(4)]
        for _, writer in waiting:
            writer.write(b"GET /v1/flows HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer waiting\r\n\r\n")
        await until(lambda: sum(bool(one._current_request) for one in connections(gateway)) == len(waiting))
        assert (await ada.get("/v1/flows")).status_code == 200
        assert (await ada.post(START, json={})).status_code == 202
        for _, writer in waiting:
            writer.transport.abort()


def connections(gateway: HttpGateway) -> list[web.RequestHandler]:
    server = gateway.server._runner.server
    assert server is not None
    return server.connections


async def test_a_body_that_is_announced_as_too_large_is_refused_at_once() -> None:
    async with running_http_gateway(body_seconds=20) as gateway:
        found = await answer_to(gateway, HEAD + b"Content-Type: application/json\r\nContent-Length: 9999999\r\n\r\n{")
    assert found.startswith(b"HTTP/1.1 413")


async def test_a_malformed_host_chooses_no_part_of_a_url() -> None:
    async with running_http_gateway() as gateway:
        for host in (
            b"a:b@evil.example",
            b"evil.example/x?y#",
            b"\xff",
            b"",
            b'"><script>',
            b"a" * 300,
            b"[::1",
            b"a:x",
        ):
            for target in (b"GET /nothing", b"GET /v1/flows", b"POST " + START.encode()):
                head = b"%b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\nContent-Length: 0\r\n" % (target, host)
                found = await answer_to(gateway, head + b"Authorization: Bearer bob\r\n\r\n")
                assert found.split(b" ")[1] in (b"200", b"202", b"404", b"400"), found
                assert b"evil" not in found
                assert b"<script" not in found


async def test_other_requests_run_between_the_passes_over_a_large_input() -> None:
    async with running_http_gateway() as gateway, gateway.client() as ada:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        async def turns_of(content: bytes) -> int:
            value = strict_json.parse(content)
            submission = Submission("free-form", value, None, None, None, len(content))
            proven = await FakeAuthority().authenticate(Evidence(SecretStr("ada"), datetime.now(UTC)))
            caller = Caller(PrincipalId(TENANT, USERS["ada"]), proven)
            before = turns
            await gateway.submissions.submit(caller, Acting(proven.principal, caller.id, None), submission)
            return turns - before

        counting = asyncio.create_task(count())
        few, many = await turns_of(b"[1.5]"), await turns_of(b"[" + b"1.5," * 20_000 + b"1.5]")
        counting.cancel()
        assert many >= few + 2
        assert (await ada.get("/v1/flows")).status_code == 200


async def test_submissions_of_callers_that_left_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "_MAX_UNDER_WAY", 2)
    async with running_http_gateway() as gateway:
        gateway.queue.seconds = 1
        for _ in range(2):
            _, writer = await raw(gateway)
            writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
            begun = gateway.submissions.count
            await until(lambda begun=begun: gateway.submissions.count > begun)
            writer.transport.abort()
        async with gateway.client() as ada:
            assert (await ada.post(START, json={})).status_code == 503
            await gateway.submissions.drain()
            assert (await ada.post(START, json={})).status_code == 202


async def test_tiny_chunks_do_not_stop_the_event_loop() -> None:
    async with running_http_gateway() as gateway:
        _, writer = await raw(gateway)
        writer.write(b"POST " + START.encode() + b" HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"1\r\na\r\n" * 200_000)
        longest, last = 0.0, time.thread_time()
        async with asyncio.timeout(10):
            while gateway.server.connections:
                await asyncio.sleep(0)
                # The time of this thread's work: that of the machine also counts other programs.
                longest, last = max(longest, time.thread_time() - last), time.thread_time()
        writer.close()
    assert longest < 0.1
