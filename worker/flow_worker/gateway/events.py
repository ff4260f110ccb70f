"""Server-sent events: the states of a request, and its result at the end (HTML Standard, section 9.2).

A caller that asks for it also gets the settling result that follows an `unknown` one.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Final

from aiohttp import web

from flow_worker.gateway.documents import pending
from flow_worker.gateway.problems import Problem
from flow_worker.gateway.results import Results
from flow_worker.gateway.settling import is_settling, may_be_settled
from flow_worker.gateway.slow_clients import taken_within
from flow_worker.gateway.spans import name_request
from flow_worker.gateway.store.port import PrincipalId, StoredRequest, StoredResult
from flow_worker.gateway.waiters import TooManyWaiters, Watch

_RESULT_ID: Final = "result"
_SETTLED_ID: Final = "settled"
_RETRY_MILLISECONDS: Final = 2000
_HEARTBEAT: Final = b": still waiting\n\n"


class EventStreams:
    """Streams the events of requests."""

    def __init__(
        self,
        results: Results,
        *,
        heartbeat_seconds: float,
        max_seconds: float,
        write_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._results = results
        self._heartbeat = heartbeat_seconds
        self._max = max_seconds
        self._write_seconds = write_seconds
        self._now = now

    async def stream(
        self,
        request: web.Request,
        caller: PrincipalId,
        request_id: str,
        location: str,
        expires: int,
        *,
        settled: bool = False,
    ) -> web.StreamResponse:
        """Stream until the result, the end of the token's life (`expires`) or a stop. Raises `Problem`.

        `settled`: after an `unknown` result, stream until the one that settles it.
        """
        last = request.headers.get("Last-Event-ID", "")
        with self._results.of_caller.held(caller) as may_wait:
            if not may_wait:
                raise Problem("rate_limited", "The caller has too many streams and long polls.", retry_after=5)
            try:
                async with self._results.waiters.watch(request_id) as watch:
                    found = await self._results.find(caller, request_id)
                    name_request(found.record.id, found.record.trace_parent)
                    if _has_all(last, found, settled=settled):
                        return web.Response(status=204)  # tells a browser's EventSource not to connect again
                    response = _response()
                    await response.prepare(request)
                    seconds = min(self._max, max(0.0, expires - self._now().timestamp()))
                    writer = _Writer(request, response, self._write_seconds, last, location, settled=settled)
                    with self._results.active.suspended():
                        await self._run(writer, watch, found, caller, seconds)
            except TooManyWaiters:
                raise Problem("unavailable", "The gateway has too many streams open.", retry_after=5) from None
        return response

    async def _run(
        self, writer: _Writer, watch: Watch, found: StoredRequest, caller: PrincipalId, seconds: float
    ) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        try:
            await writer.write(f"retry: {_RETRY_MILLISECONDS}\n\n".encode())
            while not await writer.report(found) and not self._results.is_draining and loop.time() < end:
                if not await watch.changed(min(self._heartbeat, max(0.001, end - loop.time()))):
                    await writer.write(_HEARTBEAT)
                    continue
                found = await self._results.find(caller, found.record.id)
        except Problem:
            pass  # the store is away, or the result is gone: the client connects again and learns why
        if self._results.is_draining:
            writer.close_afterwards()
        await writer.end()


class _Writer:
    """Writes the events of one stream."""

    def __init__(
        self,
        request: web.Request,
        response: web.StreamResponse,
        seconds: float,
        last: str,
        location: str,
        *,
        settled: bool,
    ) -> None:
        """`last`: the ID of the last event that the client has."""
        self._request = request
        self._response = response
        self._seconds = seconds
        self._last = last
        self._location = location
        self._settled = settled

    async def report(self, found: StoredRequest) -> bool:
        """Write the state or the result, unless the client has it. Return True after the last event."""
        if found.result is not None:
            return await self._report_result(found.result)
        document = pending(found, self._location).model_dump_json().encode()
        number = hashlib.sha256(document).hexdigest()[:16]
        if number != self._last:
            await self.write(_event("state", number, document))
            self._last = number
        return False

    async def _report_result(self, result: StoredResult) -> bool:
        if self._settled and is_settling(result):
            await self.write(_event("settled", _SETTLED_ID, result.body))
            return True
        if not self._settled or self._last != _RESULT_ID:
            await self.write(_event("result", _RESULT_ID, result.body))
            self._last = _RESULT_ID
        return not (self._settled and may_be_settled(result))

    async def write(self, data: bytes) -> None:
        """Write within the time that a client has. Raises `ConnectionError` if it does not read."""
        await taken_within(self._request, self._seconds, self._response.write(data))

    def close_afterwards(self) -> None:
        """Close the connection after the stream, so that the client opens the next one to another replica."""
        self._response.force_close()

    async def end(self) -> None:
        """End the stream."""
        await taken_within(self._request, self._seconds, self._response.write_eof())


def _has_all(last: str, found: StoredRequest, *, settled: bool) -> bool:
    """Return whether the client has the last event, whose ID is `last`. Without a result there is more to come."""
    if found.result is None:
        return False
    if not settled:
        return last in (_RESULT_ID, _SETTLED_ID)
    if last == _SETTLED_ID:
        return True
    return last == _RESULT_ID and not (may_be_settled(found.result) or is_settling(found.result))


def _response() -> web.StreamResponse:
    # `X-Accel-Buffering` keeps nginx from collecting events before it passes them on.
    return web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})


def _event(name: str, number: str, document: bytes) -> bytes:
    data = b"\ndata: ".join(document.splitlines())
    return f"id: {number}\nevent: {name}\n".encode() + b"data: " + data + b"\n\n"
