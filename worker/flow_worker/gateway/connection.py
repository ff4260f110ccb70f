"""One HTTP connection: aiohttp's own protocol, with bounds for the head of a request and with problem documents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from flow_worker.gateway.problems import Problem
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

SERVER: Final = "flow-worker"
"""The header field `Server`; aiohttp would name its version and Python's."""


_READ_BYTES: Final = 8 * 1024


_QUIET_SECONDS: Final = 0.1
_MAX_LINGERING_SECONDS: Final = 2.0


class Connection(web.RequestHandler):
    """aiohttp bounds the time between two requests, and neither the time within the head of one nor its size."""

    __slots__ = ("_body", "_discarded", "_head_bytes", "_head_seconds", "_head_timer", "_is_broken", "_max_head_bytes")

    def __init__(self, manager: web.Server, *, head_seconds: float, max_head_bytes: int, **options: Any) -> None:
        super().__init__(manager, **options)
        self._head_seconds = head_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._max_head_bytes = max_head_bytes
        self._head_bytes = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        """The body of the last request that has arrived."""
        self._is_broken = False
        """Nothing is known of the bytes that follow: the last head is malformed, or its body is discarded."""
        self._discarded = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See aiohttp. Read in small pieces: one of 256 KB can hold 43,000 chunks, whose parsing takes 300 ms."""
        if hasattr(transport, "max_size"):  # of asyncio's transports on sockets; that of Windows reads 64 KB
            transport.max_size = _READ_BYTES
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; begin to count at the first byte of a head, and stop at its end."""
        if self._is_broken:
            self._discarded += len(data)
            return
        count = self._request_count
        super().data_received(data)
        self._count_head(len(data), is_complete=self._request_count != count)
        if self._messages or self._waiter is None or self._waiter.done():
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._head_seconds, self._end_slow_head)

    def discard_body(self) -> None:
        """Parse nothing more of a refused request: the parts of its body cost time, and a stranger may send many."""
        self._is_broken = True

    def _count_head(self, size: int, *, is_complete: bool) -> None:
        """Bound the head as a whole: aiohttp bounds each field and their number, which together are megabytes."""
        if is_complete and self._messages:
            last, self._body = self._messages[-1]
            self._is_broken = isinstance(last, _ErrInfo)
        self._head_bytes = 0 if is_complete or not self._body.is_eof() else self._head_bytes + size
        if self._head_bytes <= self._max_head_bytes or self._is_broken:
            return
        self._is_broken = True
        error = LineTooLong(b"", self._max_head_bytes)
        self._messages.append((_ErrInfo(status=400, exc=error, message=""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """See aiohttp. Close only when the client has sent all: a close with unread bytes would lose the response."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = self.handle_error(request, err_info.status, err_info.exc, err_info.message)
            await response.prepare(request)
            await response.write_eof()
            await self._linger()
            return response

        return answer

    async def _linger(self) -> None:
        """Return when nothing has arrived for a moment."""
        end, seen = self._loop.time() + _MAX_LINGERING_SECONDS, -1
        while self.transport is not None and seen != self._discarded and self._loop.time() < end:
            seen = self._discarded
            await asyncio.sleep(_QUIET_SECONDS)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See aiohttp."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_slow_head(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return a problem document. aiohttp would log a traceback for each, and quote parts of the request."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the response was sent")
        problem = Problem("malformed_request", "The gateway cannot read this request: it is no valid HTTP.")
        if isinstance(exc, LineTooLong):
            problem = Problem("header_too_large", "The request line or the header fields are too long.")
        elif status != 400:
            sentence = "The gateway failed at a connection with an internal error."
            log(_log, logging.ERROR, "gateway.internal_error", sentence)
            problem = Problem("internal_error", "The gateway failed at this request; its log has the cause.")
        response = problem.response("", "/")
        response.headers.update({"Cache-Control": "no-store", "Server": SERVER})
        response.force_close()
        return response
