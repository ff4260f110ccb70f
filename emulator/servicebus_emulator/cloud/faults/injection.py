"""Injects a fault into an HTTP call: sends another answer, delays the answer, or breaks the connection."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from typing import NoReturn

from aiohttp import web

from servicebus_emulator.cloud.faults.definitions import Fault
from servicebus_emulator.cloud.flow_errors import PLATFORM_ANSWERS, PlatformAnswer

_CHUNK = b"x" * 65_536
_HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_HALF_JSON = b'{"quote": "Q-1", "lines": ['
_KINDS_WITHOUT_ANSWER = frozenset({"hang", "reset_before_reading", "reset_after_reading"})


def sends_status_line(fault: Fault | None) -> bool:
    """Return whether a call with this fault gets a status line at all."""
    return fault is None or fault.kind not in _KINDS_WITHOUT_ANSWER


async def inject(request: web.Request, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse | None:
    """Apply the fault to the call and return its answer; None after a mere delay, then the caller answers itself.

    `headers` go with every answer.
    """
    if fault.kind != "delay":
        return await replace_answer(request, fault, headers)
    await asyncio.sleep(fault.delay_seconds)
    return None


async def replace_answer(request: web.Request, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse:
    """Return the answer that replaces the real one. Raise `ValueError` for the kinds `pass` and `delay`."""
    await asyncio.sleep(fault.delay_seconds)
    match fault.kind:
        case "pass" | "delay":
            raise ValueError(f"A fault of kind '{fault.kind}' replaces no answer.")
        case "respond":
            payload, content_type = fault.payload()
            return _response(fault.status, payload, {**headers, **fault.headers, "Content-Type": content_type})
        case "html":
            return _response(fault.status, _HTML.encode(), {**headers, "Content-Type": "text/html"})
        case "invalid_json":
            return _response(200, _HALF_JSON, {**headers, "Content-Type": "application/json; charset=utf-8"})
        case "hang":
            return await _hang()
        case "reset_before_reading" | "reset_after_reading":
            return _reset(request)
        case "close_midway":
            return await _close_midway(request, fault, headers)
        case "oversize":
            chunks = _long_string(fault.size_bytes)
            return web.Response(body=chunks, headers={**headers, "Content-Type": "application/json"})
        case "throttle":
            answer = PLATFORM_ANSWERS["TooManyRequests"]
            return _platform_response(request, answer, {**headers, **retry_after_header(fault)})
        case _:  # mypy proves that only the platform's answers are left
            return _platform_response(request, PLATFORM_ANSWERS[fault.kind], headers)


async def _hang() -> NoReturn:
    while True:
        await asyncio.Event().wait()


def _platform_response(request: web.Request, answer: PlatformAnswer, headers: Mapping[str, str]) -> web.Response:
    parts = {"workflow": "name", "run": "run_id"}
    details = {detail: request.match_info[part] for detail, part in parts.items() if part in request.match_info}
    body = {"error": {"code": answer.code, "message": answer.format_message(**details)}}
    return web.json_response(body, status=answer.status, headers=headers)


def retry_after_header(fault: Fault) -> dict[str, str]:
    """Return the header `Retry-After` as seconds or as a date (RFC 9110, section 10.2.3), or no header."""
    if fault.retry_after_seconds is not None:
        return {"Retry-After": formatdate(math.ceil(time.time() + fault.retry_after_seconds), usegmt=True)}
    return {} if fault.retry_after is None else {"Retry-After": fault.retry_after}


def _response(status: int, payload: bytes, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=payload, headers=headers)


def _reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection."""
    transport = request.transport
    if transport is not None:
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None:
            # With a linger time of 0 the kernel sends RST instead of FIN, as a crashed host does.
            linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()  # aiohttp wants a response; the connection that would carry it is closed


async def _close_midway(request: web.Request, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse:
    payload, content_type = fault.payload()
    payload = payload or b'{"text": "' + b"x" * 1000 + b'"}'
    response = web.StreamResponse(headers={**headers, "Content-Type": content_type})
    response.content_length = len(payload)
    await response.prepare(request)
    await response.write(payload[: len(payload) // 2])
    _reset(request)
    return response


async def _long_string(size: int) -> AsyncIterator[bytes]:
    """Yield a JSON string of `size` bytes in chunks, so that the emulator never holds it whole."""
    yield b'"'
    for begin in range(0, size - 2, len(_CHUNK)):
        yield _CHUNK[: size - 2 - begin]
    yield b'"'
