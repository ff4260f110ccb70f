"""The invoker against a server that sends any bytes: bombs, half answers, and places where no token may go."""

from __future__ import annotations

import asyncio
import base64
import gzip
import threading
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from flow_contracts.output import MAX_VALUES
from flow_contracts.strict_json import Rest
from flow_worker.errors import CallFailed
from flow_worker.flows import answer_reader
from flow_worker.flows.answer import Answer, Content, decode_body
from flow_worker.flows.invoker import Invoker
from flow_worker.flows.registry import Flow
from flow_worker.flows.status_url import StatusHosts
from flow_worker.flows.verdict import FlowHealth, VerdictKind, judge, judge_failure

TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJvaWQiOiJ3b3JrZXIifQ." + "s1gnature" * 8
MAX_BYTES = 4 * 1024 * 1024
WORKFLOW = "/workflows/4f"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass
class Server:
    """Answers each connection with the bytes in `response`, and records the requests."""

    url: str = ""
    response: bytes = b""
    requests: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(self.response)
        writer.close()

    @property
    def flow(self) -> Flow:
        hosts = StatusHosts((), {self.url.removeprefix("http://")})
        return Flow("f", f"{self.url}{WORKFLOW}/triggers/m", "R", 10.0, idempotent=False, status_hosts=hosts)


class _Identity:
    async def token(self, *, fresh: bool = False) -> str:
        return TOKEN


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = "http://{}:{}".format(*listening.sockets[0].getsockname())
    async with listening:
        yield server


@pytest.fixture
async def invoker() -> AsyncIterator[Invoker]:
    async with Invoker(
        _Identity(),
        connect_seconds=5,
        max_connections=4,
        keepalive_seconds=15,
        status_seconds=10,
        max_response_bytes=MAX_BYTES,
        decode_seconds=60,
    ) as invoker:
        yield invoker


def response(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def call(invoker: Invoker, server: Server, answer: bytes) -> Answer:
    server.response = answer
    return await invoker.invoke(server.flow, 1, token=TOKEN, correlation_id="c", traceparent=None)


JSON = "Content-Type: application/json"


BOMB = gzip.compress(b"\0" * 50_000_000)


@pytest.mark.parametrize("bomb", [gzip.compress(BOMB), BOMB], ids=["double", "single"])
@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip\r\nContent-Encoding: gzip", "gzip"], ids=range(3))
async def test_a_bomb_costs_no_more_than_the_limit(
    invoker: Invoker, server: Server, bomb: bytes, encoding: str
) -> None:
    answer = await call(invoker, server, response(bomb, JSON, f"Content-Encoding: {encoding}"))
    if encoding != "gzip":
        assert answer.content.unread is not None
        assert answer.content.unread.code == "output_encoding_unsupported"
        assert base64.b64decode(str(answer.content.output)) == bomb, "undecoded"
    elif len(bomb) > 1000:
        assert answer.content.unread is not None
        assert answer.content.unread.code == "output_too_large"
    else:
        assert answer.content.encoding == "base64"  # the inner gzip, undecoded


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b'{"n": 1}')),
        ("x-gzip", gzip.compress(b'{"n":') + gzip.compress(b" 1}")),
        ("deflate", zlib.compress(b'{"n": 1}')),
        ("deflate", zlib.compress(b'{"n": 1}', wbits=-15)),
        ("identity", b'{"n": 1}'),
    ],
    ids=["gzip", "gzip members", "zlib", "raw deflate", "identity"],
)
async def test_a_whole_answer_is_read_and_half_of_it_is_none(
    invoker: Invoker, server: Server, encoding: str, body: bytes
) -> None:
    header = f"Content-Encoding: {encoding}"
    answer = await call(invoker, server, response(body, JSON, header))
    assert (answer.content.output, answer.content.encoding) == ({"n": 1}, "json")
    if encoding != "identity":
        for part in (body[: len(body) // 2], body[:-1], body + b"x"):
            with pytest.raises(CallFailed) as failure:
                await call(invoker, server, response(part, JSON, header))
            assert (failure.value.code, failure.value.may_have_run) == ("flow_no_answer", True)
    with pytest.raises(CallFailed, match="broke"):
        await call(invoker, server, response(body, JSON, header)[:-1])


async def test_a_compressed_body_without_a_length_that_is_empty_is_half_an_answer(
    invoker: Invoker, server: Server
) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: gzip\r\n"
    with pytest.raises(CallFailed):
        await call(invoker, server, head + b"\r\n")
    answer = await call(invoker, server, head + b"Content-Length: 0\r\n\r\n")
    assert answer.content == Content()


@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "304 Not Modified"])
async def test_an_answer_that_has_no_body_by_its_status_is_whole(invoker: Invoker, server: Server, status: str) -> None:
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\n\r\n"
    answer = await call(invoker, server, head.encode())
    assert (answer.status, answer.content) == (int(status[:3]), Content())


@pytest.mark.parametrize("name", ["utf-8", "none", "binary", "aws-chunked"])
async def test_an_encoding_that_does_not_exist_leaves_the_body_plain(
    invoker: Invoker, server: Server, name: str
) -> None:
    answer = await call(invoker, server, response(b'{"n": 1}', JSON, f"Content-Encoding: {name}"))
    assert (answer.content.output, answer.content.unread) == ({"n": 1}, None)


@pytest.mark.parametrize("name", ["br", "zstd", "compress", "gzip, gzip"])
async def test_the_bytes_of_an_encoding_that_the_worker_does_not_decode_survive(
    invoker: Invoker, server: Server, name: str
) -> None:
    for body in (b"\x1b\x07\x00", b"a" * 100_000):
        answer = await call(invoker, server, response(body, JSON, f"Content-Encoding: {name}"))
        verdict = judge(answer, server.flow, now=NOW, fresh_token=False)
        assert (verdict.kind, verdict.output_encoding) == (VerdictKind.SUCCEEDED, "base64")
        assert verdict.error is not None
        assert verdict.error.code == "output_encoding_unsupported"
        assert base64.b64decode(str(verdict.output)) == body
        assert verdict.output_type == "application/json"


async def test_a_large_body_is_decoded_in_a_thread_under_a_deadline(
    invoker: Invoker, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    decode = decode_body

    def recording(body: bytes, content_type: str | None, *, token: str, rest: Rest) -> Content:
        threads.append(threading.current_thread())
        return decode(body, content_type, token=token, rest=rest)

    monkeypatch.setattr(answer_reader, "decode_body", recording)
    large = b"[" + b"1," * 50_000 + b"1]"
    for body in (
        response(b"[1]", JSON),
        response(large, JSON),
        response(gzip.compress(large), JSON, "Content-Encoding: gzip"),
    ):
        assert (await call(invoker, server, body)).content.encoding == "json"
    assert [thread is threading.main_thread() for thread in threads] == [True, False, False]


async def test_a_body_that_takes_too_long_to_decode_is_reported_without_output(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def stuck(body: bytes, content_type: str | None, *, token: str, rest: Rest) -> Content:
        release.wait(60)
        return Content()

    monkeypatch.setattr(answer_reader, "decode_body", stuck)
    limits = {"connect_seconds": 5.0, "keepalive_seconds": 15.0, "status_seconds": 10.0, "decode_seconds": 0.05}
    async with Invoker(_Identity(), max_connections=4, max_response_bytes=MAX_BYTES, **limits) as invoker:
        answer = await call(invoker, server, response(b" " * 100_000, JSON))
        release.set()
    assert answer.content.unread is not None
    assert (answer.status, answer.content.unread.code) == (200, "output_not_decoded")


async def test_an_answer_of_very_many_values_is_text(invoker: Invoker, server: Server) -> None:
    most = b"[" + b"[]," * (MAX_VALUES // 2 - 2) + b"[]]"
    assert (await call(invoker, server, response(most, JSON))).content.encoding == "json"
    more = b"[" + b"[]," * MAX_VALUES + b"[]]"
    content = (await call(invoker, server, response(more, JSON))).content
    assert (content.encoding, content.output) == ("text", more.decode())


async def test_the_workers_token_does_not_come_back_in_an_answer(invoker: Invoker, server: Server) -> None:
    signature = TOKEN.rpartition(".")[2]
    echo = f'{{"Authorization": "Bearer {TOKEN}", "part": "{signature}"}}'.encode()
    for body, headers in (
        (echo, [JSON]),
        (echo, ["Content-Type: text/plain"]),
        (echo.decode().encode("utf-16"), ["Content-Type: text/plain; charset=utf-16"]),
        (gzip.compress(echo), [JSON, "Content-Encoding: gzip"]),
        (echo.replace(b".", b"\\u002e").replace(b"s1", b"\\u00731"), [JSON]),
    ):
        answer = await call(invoker, server, response(body, *headers, f"x-ms-echo: Bearer {TOKEN}"))
        assert signature not in f"{answer.content.output} {answer.tracking}"
        assert "***" in f"{answer.content.output}"


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["application/octet-stream", "text/plain", "application/json"])
def test_the_token_is_masked_in_the_bytes_of_any_character_set(codec: str, kind: str) -> None:
    content = decode_body(f"x{TOKEN}y".encode(codec), kind, token=TOKEN)
    output = str(content.output)
    body = base64.b64decode(output) if content.encoding == "base64" else output.encode()
    assert body == "x***y".encode(codec)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/octet-stream", "text/html"])
def test_the_token_is_masked_where_escapes_spell_it(kind: str) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" if at % 3 else letter for at, letter in enumerate(TOKEN))
    content = decode_body(f'{{"a": 1, "a": "{escaped}"}}'.encode(), kind, token=TOKEN)
    output = str(content.output)
    text = base64.b64decode(output).decode() if content.encoding == "base64" else output
    assert text == '{"a": 1, "a": "***"}'


def test_escapes_without_the_token_stay_as_they_are() -> None:
    body = b'{"a": 1, "a": "\\u0041\\u00e4"}'
    assert decode_body(body, "text/plain", token=TOKEN).output == body.decode()


async def test_a_part_of_the_token_is_masked_in_a_header_that_is_cut(invoker: Invoker, server: Server) -> None:
    signature = TOKEN.rpartition(".")[2]
    header = f"x-ms-echo: {'a' * 480}{signature}"
    answer = await call(invoker, server, response(b"1", JSON, header, f"x-ms-part: {signature}"))
    assert answer.tracking == {"x-ms-echo": "a" * 480 + "***", "x-ms-part": "***"}


@pytest.mark.parametrize(
    ("path", "code", "bearer"),
    [
        (f"{WORKFLOW}/runs/1", None, True),
        (f"{WORKFLOW}/runs/1?sig=a", None, False),
        ("/workflows/5a/runs/1?sig=a", None, False),
        ("/workflows/5a/runs/1", "status_url_not_signed", None),
        (f"{WORKFLOW}/../5a/runs/1", "status_url_not_allowed", None),
        ("/workflows\\4f/runs/1", "status_url_not_allowed", None),
    ],
)
async def test_a_poll_carries_the_token_to_the_flows_own_workflow_only(
    invoker: Invoker, server: Server, path: str, code: str | None, bearer: bool | None
) -> None:
    server.response = response(b"1", JSON)
    if code is None:
        await invoker.poll(server.flow, server.url + path, token=TOKEN)
        assert ("authorization: bearer" in server.requests[-1].lower()) is bearer
    else:
        with pytest.raises(CallFailed) as failure:
            await invoker.poll(server.flow, server.url + path, token=TOKEN)
        assert (failure.value.code, server.requests) == (code, [])


ODD_RESPONSES = {
    "a reason that is not UTF-8": b"HTTP/1.1 200 \xff\xfe\r\nContent-Length: 1\r\n\r\n1",
    "a cookie": b"HTTP/1.1 200 OK\r\nSet-Cookie: =;a\x01=b\r\nContent-Length: 1\r\n\r\n1",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
    "a chunk without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n12\r\n",
    "a compressed transfer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\n12\r\n0\r\n\r\n",
    "very many headers": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000 + b"Content-Length: 1\r\n\r\n1",
    "a status that does not exist": b"HTTP/1.1 000 OK\r\nContent-Length: 1\r\n\r\n1",
    "another protocol": b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n1",
    "no HTTP": b"\0" * 1000,
    "headers not in UTF-8": b"HTTP/1.1 200 OK\r\nContent-Type: \xff\r\nX-MS-a: \xff\r\nContent-Length: 1\r\n\r\n1",
    **{
        f"location {location!r}": b"HTTP/1.1 202 OK\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % location
        for location in (b"\\x", b"/a\tb", b"//[::1", b"https://[v1.a]/", b"/%", b"\xff", b"#", b"../" * 2000, b"//@")
    },
}


async def test_no_response_of_a_flow_is_an_internal_error(invoker: Invoker, server: Server) -> None:
    for name, odd in ODD_RESPONSES.items():
        try:
            verdict = judge(await call(invoker, server, odd), server.flow, now=NOW, fresh_token=False)
        except CallFailed as failure:
            verdict = judge_failure(failure, server.flow)
        assert verdict.kind in (VerdictKind.SUCCEEDED, VerdictKind.FAILED, VerdictKind.UNKNOWN), name


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "flood",
    [
        b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n" * 12 + response(b"1"),
        CHUNKED + b"1\r\n1\r\n" * 500_000 + b"0\r\n\r\n",
        CHUNKED + b"1;" + b"a" * 2_000_000 + b"\r\n1\r\n0\r\n\r\n",
    ],
    ids=["interim responses", "tiny chunks", "an extension"],
)
async def test_bytes_outside_the_body_end_the_call(invoker: Invoker, server: Server, flood: bytes) -> None:
    with pytest.raises(CallFailed) as failure:
        await call(invoker, server, flood)
    verdict = judge_failure(failure.value, server.flow)
    assert (verdict.kind, verdict.health) == (VerdictKind.UNKNOWN, FlowHealth.RUN_FAILED)


@pytest.mark.parametrize(("size", "count"), [(1, 200_000), (3, 200_000), (8, 200_000), (24, 100_000)])
async def test_an_answer_in_small_chunks_is_read(invoker: Invoker, server: Server, size: int, count: int) -> None:
    chunk = b"%x\r\n%b\r\n" % (size, b"a" * size)
    assert (await call(invoker, server, CHUNKED + chunk * count + b"0\r\n\r\n")).content.size == size * count


@pytest.mark.parametrize("name", ["x-ms-{:02}" + "n" * 4000, "x-ms-{:02}" + "n" * 120, "x-ms-{:02}"])
async def test_the_headers_of_a_run_stay_small(invoker: Invoker, server: Server, name: str) -> None:
    headers = [f"{name.format(at)}: {'v' * 900}" for at in range(33)]
    tracking = (await call(invoker, server, response(b"1", *headers, "x-ms-workflow-run-id: r1"))).tracking
    assert tracking["x-ms-workflow-run-id"] == "r1"
    assert 10 < len(tracking) <= 32
    assert sum(len(name) + len(value) for name, value in tracking.items()) < 10_000
    assert max(map(len, tracking)) <= 128


async def test_a_large_answer_in_chunks_is_read(invoker: Invoker, server: Server) -> None:
    body = b"a" * 3_000_000
    chunks = b"".join(b"20\r\n%b\r\n" % body[at : at + 32] for at in range(0, len(body), 32))
    for framed in (chunks, b"%x\r\n%b\r\n" % (len(body), body)):
        answer = await call(invoker, server, b"HTTP/1.1 103 Hints\r\n\r\n" + CHUNKED + framed + b"0\r\n\r\n")
        assert answer.content.size == len(body)
