"""Faults on purpose: which one the next call meets, and what it does to the connection."""

from __future__ import annotations

import asyncio
import math
import random
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from email.utils import formatdate
from typing import NoReturn

from aiohttp import web

from servicebus_emulator.cloud.definitions import Fault
from servicebus_emulator.cloud.flows.flow_errors import Behaviour

_CHUNK = b"x" * 65_536
_HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_HALF_JSON = b'{"quote": "Q-1", "lines": ['
_NEVER_ANSWERED = frozenset({"hang", "reset_before_reading", "reset_after_reading"})


class Faults:
    """The faults in force, in the order they strike; each until its `next_calls` are used up."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._left: deque[_InForce] = deque()
        self.put(faults)

    def put(self, faults: Iterable[Fault]) -> None:
        """Replace the faults."""
        self._left = deque(_InForce(fault) for fault in faults)

    def strike(self) -> Fault | None:
        """The fault that this call meets."""
        if not self._left:
            return None
        first = self._left[0]
        struck = first.strikes()
        if first.left == 0:
            self._left.popleft()
        return first.fault if struck else None


class _InForce:
    """A fault, how many calls it is still there for (None: all), and the dice for its share of them."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.left = fault.next_calls
        self._dice = random.Random(fault.seed)  # noqa: S311 - which calls fail is no secret

    def strikes(self) -> bool:
        """Take one call, and say whether it is struck."""
        if self.left is not None:
            self.left -= 1
        return self.fault.kind != "pass" and self._dice.random() < self.fault.share


def answers(fault: Fault | None) -> bool:
    """Whether a call that meets the fault gets a status line at all."""
    return fault is None or fault.kind not in _NEVER_ANSWERED


async def inflict(request: web.Request, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse | None:
    """Do to the call what the fault says; `headers` go with any answer. None: only a delay, the own answer follows."""
    if fault.kind != "delay":
        return await instead(request, fault, headers)
    await asyncio.sleep(fault.delay_seconds)
    return None


async def instead(request: web.Request, fault: Fault, headers: Mapping[str, str]) -> web.StreamResponse:
    """What the caller gets instead of an own answer. Raises `ValueError` for a fault that does not replace it."""
    await asyncio.sleep(fault.delay_seconds)
    if fault.behaviour is not None:
        return _platform(request, fault, fault.behaviour, headers)
    match fault.kind:
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
            return await _cut(request, fault, headers)
        case "oversize":
            chunks = _long_text(fault.size_bytes)
            return web.Response(body=chunks, headers={**headers, "Content-Type": "application/json"})
        case _:
            raise ValueError(f"'{fault.kind}' replaces no answer")


async def _hang() -> NoReturn:
    while True:
        await asyncio.Event().wait()


def _platform(
    request: web.Request, fault: Fault, behaviour: Behaviour, headers: Mapping[str, str]
) -> web.StreamResponse:
    named = {"workflow": "name", "run": "run_id"}
    details = {detail: request.match_info[part] for detail, part in named.items() if part in request.match_info}
    body = {"error": {"code": behaviour.code, "message": behaviour.said(**details)}}
    pause = retry_after(fault) if fault.kind == "throttle" else {}
    return web.json_response(body, status=behaviour.status, headers={**headers, **pause})


def retry_after(fault: Fault) -> dict[str, str]:
    """The header `Retry-After` in one of its two forms (RFC 9110, section 10.2.3), or none."""
    if fault.retry_after_seconds is not None:
        return {"Retry-After": formatdate(math.ceil(time.time() + fault.retry_after_seconds), usegmt=True)}
    return {} if fault.retry_after is None else {"Retry-After": fault.retry_after}


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
