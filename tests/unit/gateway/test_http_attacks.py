"""Requests that two programs could read differently, and those of callers who want more than their own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.http_gateway import ORIGIN, USERS, HttpGateway, running_http_gateway

START = "/v1/flows/create-quote/requests"
JSON = "Content-Type: application/json"
CHUNKED = b"2\r\n{}\r\n0\r\n\r\n"


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[HttpGateway]:
    async with running_http_gateway() as running:
        yield running


def post(*fields: str, path: str = START, body: bytes = b"{}", user: str = "ada", length: bool = True) -> bytes:
    return request("POST", path, *fields, *([f"Content-Length: {len(body)}"] if length else []), user=user) + body


def request(method: str, path: str, *fields: str, user: str = "ada") -> bytes:
    head = (f"{method} {path} HTTP/1.1", "Host: gateway", f"Authorization: Bearer {user}", "Connection: close", *fields)
    return "\r\n".join([*head, "", ""]).encode()


async def status_of(gateway: HttpGateway, data: bytes) -> int:
    """Return the status of the response. Each body of an error is a problem document."""
    host, port = gateway.server.address
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    status = int(head.split(b" ")[1])
    if status >= 400 and body:
        assert json.loads(body)["status"] == status
    return status


async def test_no_request_is_read_in_two_ways(gateway: HttpGateway) -> None:
    """A proxy before the gateway may frame a request by the other of two fields. None of these is accepted."""
    refused = {
        "two tokens": (401, post("Authorization: Bearer bob", JSON)),
        "two tokens in one field": (401, request("GET", "/v1/flows", user="ada, Bearer bob")),
        "two keys": (400, post('Idempotency-Key: "a"', 'Idempotency-Key: "b"', JSON)),
        "two users": (
            400,
            post(f"On-Behalf-Of: {USERS['ada']}", f"On-Behalf-Of: {USERS['bob']}", JSON, user="service"),
        ),
        "two lengths": (400, post(JSON, "Content-Length: 2", "Content-Length: 3", length=False)),
        "one length twice": (400, post(JSON, "Content-Length: 2", "Content-Length: 2", length=False)),
        "a list of lengths": (400, post(JSON, "Content-Length: 2, 2", length=False)),
        "length and chunks": (400, post(JSON, "Transfer-Encoding: chunked", body=CHUNKED)),
        "signed length": (400, post(JSON, "Content-Length: +2", length=False)),
        "Arabic length": (400, post(JSON, "Content-Length: \u0662", length=False)),
        "space before the colon": (400, post(JSON, "Content-Length : 2", length=False)),
        "folded field": (400, post(JSON, "X-A: a\r\n b")),
        "two types": (400, post(JSON, "Content-Type: text/plain")),
        "two codings": (400, post(JSON, *["Transfer-Encoding: chunked"] * 2, body=CHUNKED, length=False)),
        "unknown coding": (400, post(JSON, "Transfer-Encoding: xchunked", body=CHUNKED, length=False)),
        "a coding within": (415, post(JSON, "Transfer-Encoding: gzip, chunked", body=CHUNKED, length=False)),
        "identity within": (400, post(JSON, "Transfer-Encoding: chunked, identity", body=CHUNKED, length=False)),
        "bare line feeds": (400, post(JSON, "Transfer-Encoding: chunked", body=b"2\n{}\n0\n\n", length=False)),
        "two hosts": (400, request("GET", "/v1/flows", "Host: evil.example")),
        "two waits": (400, request("GET", "/v1/requests/x?wait=1&wait=2")),
    }
    for name, (status, data) in refused.items():
        assert await status_of(gateway, data) == status, name
    assert gateway.queue.messages == []
    for data in (post(JSON), post(JSON, "Transfer-Encoding: Chunked", body=CHUNKED, length=False)):
        assert await status_of(gateway, data) == 202


async def test_no_spelling_of_a_path_leads_elsewhere(gateway: HttpGateway) -> None:
    for name in (
        *(
            "..",
            "%2e%2e%2fcreate-quote",
            "a%2fb",
            "create%252dquote",
            "Create-Quote",
            "create-quote%20",
            "create-quote%00",
        ),
        *("create-quo%EF%BD%94e", "%ff%fe", "%ed%a0%80", "a%0d%0aX-B:%20c", "a" * 5000),
    ):
        assert await status_of(gateway, post(JSON, path=f"/v1/flows/{name}/requests")) in (403, 404), name
    for path in (f"/{START}", f"{START}/", "/v1/flows/create-quote%2frequests", "/v1/flows;a=b/create-quote/requests"):
        assert await status_of(gateway, post(JSON, path=path)) in (404, 405), path
    assert gateway.queue.messages == []
    for request_id in ("..%2f..%2fopenapi.json", "%00", "fw-gateway-00000000-", "%ef%bc%90"):
        for suffix in ("", "/events"):
            assert await status_of(gateway, request("GET", f"/v1/requests/{request_id}{suffix}")) == 404, request_id


async def test_a_stranger_gets_nothing_of_another_callers_request(gateway: HttpGateway) -> None:
    async with gateway.client() as ada:
        own = (await ada.post(START, json={})).json()["id"]
    await gateway.finish(own)
    for path in (own, f"fw-gateway-00000000-{own}", f"{own}/events", f"{own}?wait=1", own.upper()):
        for fields in ((), (f"On-Behalf-Of: {USERS['ada']}",), ("Last-Event-ID: result",)):
            for user in ("bob", "service"):
                assert await status_of(gateway, request("GET", f"/v1/requests/{path}", *fields, user=user)) == 404, path
    for method in ("HEAD", "PUT", "PATCH", "DELETE", "POST", "TRACE"):
        assert await status_of(gateway, request(method, f"/v1/requests/{own}", user="bob")) == 405
    odd = ("Access-Control-Request-Method: a b", "Access-Control-Request-Headers: cookie, x-evil", f"Origin: {ORIGIN}")
    assert await status_of(gateway, request("OPTIONS", f"/v1/requests/{own}", *odd)) == 204
