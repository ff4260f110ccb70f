"""A flow that answers as an attacker would: each path has its own worst answer."""

from __future__ import annotations

import asyncio
import base64
import gzip
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache

_MIB = 2**20
_BOMB_MIB = 512
"""The size of a bomb that is decompressed whole."""
_ANSWER_BYTES = 8 * _MIB
"""The limit of the worker (`http.max_response_bytes`), so the largest body that it reads."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the flow."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    encoding: str | None = None
    is_chunked: bool = False
    """The body has its chunks already."""

    def encoded(self) -> bytes:
        """Return the HTTP response."""
        encoding = f"Content-Encoding: {self.encoding}\r\n" if self.encoding else ""
        length = "Transfer-Encoding: chunked" if self.is_chunked else f"Content-Length: {len(self.body)}"
        head = (
            f"HTTP/1.1 {self.status} Answer\r\nContent-Type: {self.content_type}\r\n{encoding}"
            f"x-ms-workflow-run-id: 08584000000000000000000000000CU00\r\n{length}\r\n\r\n"
        )
        return head.encode() + self.body


@cache
def _zeros(wbits: int) -> bytes:
    """Return compressed zeros, in the format that `wbits` selects."""
    compressor, chunk = zlib.compressobj(9, zlib.DEFLATED, wbits), bytes(_MIB)
    return b"".join(compressor.compress(chunk) for _ in range(_BOMB_MIB)) + compressor.flush()


def _repeated(part: bytes, *, before: bytes = b"", after: bytes = b"") -> bytes:
    return before + part * ((_ANSWER_BYTES - len(before) - len(after)) // len(part)) + after


def _failure(text: bytes) -> bytes:
    return _repeated(text, before=b'{"error": {"code": "Failed", "message": "', after=b'"}}')


ANSWERS: Mapping[str, Callable[[], Answer]] = {
    "gzip-bomb": lambda: Answer(_zeros(31), encoding="gzip"),
    "gzip-twice": lambda: Answer(gzip.compress(_zeros(31)), encoding="gzip, gzip"),
    "deflate-bomb": lambda: Answer(_zeros(15), "text/plain", encoding="deflate"),
    "punycode": lambda: Answer(b"-" + b"a" * 800_000, "text/plain; charset=punycode"),
    "values": lambda: Answer(_repeated(b"[],", before=b"[", after=b"0]")),
    "depth": lambda: Answer(b"[" * _ANSWER_BYTES),
    "objects": lambda: Answer(_repeated(b'{"a":{}},', before=b"[", after=b"0]")),
    "digits": lambda: Answer(b"1" * _ANSWER_BYTES),
    "escapes": lambda: Answer(_repeated(b"\\ud83d\\ude00", before=b'"', after=b'"')),
    "escape-bomb": lambda: Answer(gzip.compress(_repeated(b"\\u0041")), "application/x-any", encoding="gzip"),
    "percent-bomb": lambda: Answer(gzip.compress(_repeated(b"%41")), "text/plain", encoding="gzip"),
    "chunks": lambda: Answer(b"1\r\na\r\n" * (_ANSWER_BYTES // 6) + b"0\r\n\r\n", "text/plain", is_chunked=True),
    "utf-16": lambda: Answer(
        _repeated(b"[\0]\0,\0", before=b"[\0", after=b"0\0]\0"), "application/json; charset=utf-16"
    ),
    "base64": lambda: Answer(base64.b64encode(bytes(_ANSWER_BYTES // 2)), "application/octet-stream"),
    "masking": lambda: Answer(_failure(b"Bearer sig=&sig=eyJ. https://"), status=502),
    "html": lambda: Answer(_repeated(b"<p>sig=", before=b"<html>"), "text/html", status=502),
}


@cache
def encoded_answer(name: str) -> bytes:
    """Return the HTTP response. The first call builds it, which takes seconds for a bomb."""
    return ANSWERS[name]().encoded()


@asynccontextmanager
async def hostile_flow() -> AsyncIterator[str]:
    """Serve the answers; yield the URL before their names."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_content_length(head))
                name = head.split(b" ", 2)[1].split(b"?")[0].rsplit(b"/", 1)[-1].decode()
                writer.write(encoded_answer(name))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hostile"
    finally:
        server.close()


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1])
    return 0
