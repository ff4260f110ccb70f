"""Faults on purpose: which one the next call meets, and what it does to the connection."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterable, Mapping

from aiohttp import web

from emulator.definitions import Fault

_CHUNK = b"x" * 65_536
_HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_NEVER_ANSWERED = frozenset({"hang", "reset_before_reading", "reset_after_reading"})


class Faults:
    """The faults in force, in the order they strike; each until its `next_calls` are used up."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._left: list[tuple[Fault, int | None]] = []
        self.put(faults)

    def put(self, faults: Iterable[Fault]) -> None:
        """Replace the faults."""
        self._left = [(fault, fault.next_calls) for fault in faults]

    def strike(self) -> Fault | None:
        """The fault that this call meets."""
        if not self._left:
            return None
        fault, left = self._left[0]
        if left is not None:
            self._left[0] = (fault, left - 1)
            if left == 1:
                del self._left[0]
        return fault


def answers(fault: Fault | None) -> bool:
    """Whether a call that meets the fault gets a status line at all."""
    return fault is None or fault.kind not in _NEVER_ANSWERED


async def inflict(request: web.Request, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse | None:
    """Do to the call what the fault says; `headers` go with any answer. None: only a delay, the own answer follows."""
    await asyncio.sleep(fault.delay_seconds)
    match fault.kind:
        case "delay":
            return None
        case "respond":
            payload, content_type = fault.payload()
            return _response(fault.status, payload, {**headers, **fault.headers, "Content-Type": content_type})
        case "html":
            return _response(fault.status, _HTML.encode(), {**headers, "Content-Type": "text/html"})
        case "throttle":
            body = b'{"error":{"code":"TooManyRequests","message":"The rate limit was exceeded. Try again later."}}'
            throttled = {**headers, "Content-Type": "application/json", "Retry-After": fault.retry_after}
            return _response(429, body, throttled)
        case "hang":
            await asyncio.Event().wait()
        case "reset_before_reading" | "reset_after_reading":
            return _reset(request)
        case "close_midway":
            return await _cut(request, fault, headers)
        case "oversize":
            chunks = _long_text(fault.size_bytes)
            return web.Response(body=chunks, headers={**headers, "Content-Type": "application/json"})
    return None


def _response(status: int, payload: bytes, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=payload, headers=headers)


def _reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection: with no time to linger the kernel sends RST instead of FIN."""
    transport = request.transport
    if transport is not None:
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()  # nobody is there to get it


async def _cut(request: web.Request, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse:
    payload, content_type = fault.payload()
    payload = payload or b'{"text": "' + b"x" * 1000 + b'"}'
    response = web.StreamResponse(headers={**headers, "Content-Type": content_type})
    response.content_length = len(payload)
    await response.prepare(request)
    await response.write(payload[: len(payload) // 2])
    _reset(request)
    return response


async def _long_text(size: int) -> AsyncIterator[bytes]:
    """A JSON text of this many bytes, made as it goes."""
    yield b'"'
    for begin in range(0, size - 2, len(_CHUNK)):
        yield _CHUNK[: size - 2 - begin]
    yield b'"'
