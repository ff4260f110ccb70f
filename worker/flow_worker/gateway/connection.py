"""One HTTP connection: aiohttp's own protocol, with bounds for the head of a request and with problem documents."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from flow_worker.gateway.problems import Problem
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

SERVER: Final = "flow-worker"
"""The header field `Server`; aiohttp would name its version and Python's."""
CONTINUE: Final = "100-continue"


_READ_BYTES: Final = 8 * 1024
_MANY_LINES: Final = 64
"""A piece with more line ends may hold many chunks; the parser then gets it in slices."""
_SLICE_BYTES: Final = 1024
_FREE_PIECES: Final = 512
"""The pieces of a body that may be as small as they like: parsing them takes 3 ms."""
_MIN_PIECE_BYTES: Final = 64
"""The least average size of all further pieces. A body of 1 MiB then takes 100 ms in many turns of the loop."""
_MIN_FRAMING_BYTES: Final = 5
"""What each chunk adds to its content: two line ends and a digit."""
_QUIET_SECONDS: Final = 0.1
_MAX_LINGERING_SECONDS: Final = 2.0


class TooManyPieces(TimeoutError):
    """A body arrives in too many small pieces. For aiohttp it is a client that is too slow; others it would log."""


class Connection(web.RequestHandler):
    """aiohttp bounds the time between two requests, and neither the time within the head of one nor its size.

    It does not bound the number of pieces of a body either: a megabyte of chunks of one byte takes seconds to parse.
    """

    __slots__ = (
        "_body",
        "_counted",
        "_discarded",
        "_framing_bytes",
        "_head_bytes",
        "_head_seconds",
        "_head_timer",
        "_is_broken",
        "_max_head_bytes",
        "_reads",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        head_seconds: float,
        max_head_bytes: int,
        counted: Callable[[str], None],
        **options: Any,
    ) -> None:
        """`counted` learns the code of each problem that this connection answers itself."""
        super().__init__(manager, **options)
        self._counted = counted
        self._head_seconds = head_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._max_head_bytes = max_head_bytes
        self._head_bytes = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        """The body of the last request that has arrived."""
        self._is_broken = False
        """Nothing is known of the bytes that follow: the last head is malformed, or its body is discarded."""
        self._discarded = 0
        self._reads = self._framing_bytes = 0
        """Of the last body: how often a part of it arrived, and the bytes that are not its content."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See aiohttp. Read in small pieces: one of 256 KB can hold 43,000 chunks, whose parsing takes 300 ms."""
        if hasattr(transport, "max_size"):  # of asyncio's transports on sockets; that of Windows reads 64 KB
            transport.max_size = _READ_BYTES
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, in slices if it may find many chunks, so that few of them are parsed beyond the limit."""
        if data.count(b"\n") <= _MANY_LINES:
            self._feed(data)
            return
        for start in range(0, len(data), _SLICE_BYTES):
            self._feed(data[start : start + _SLICE_BYTES])

    def _feed(self, data: bytes) -> None:
        """Feed the parser; begin to count at the first byte of a head, and stop at its end."""
        if self._is_broken:
            self._discarded += len(data)
            return
        count, content = self._request_count, self._body.total_bytes
        super().data_received(data)
        is_complete = self._request_count != count
        self._count_head(len(data), is_complete=is_complete)
        if is_complete:
            self._reads = self._framing_bytes = 0
        elif not self._body.is_eof():
            self._count_pieces(len(data) - (self._body.total_bytes - content))
        if self._messages or self._waiter is None or self._waiter.done():
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._head_seconds, self._end_slow_head)

    def discard_body(self) -> None:
        """Parse nothing more of a refused request: the parts of its body cost time, and a stranger may send many."""
        self._is_broken = True

    def _count_pieces(self, framing_bytes: int) -> None:
        """Bound the pieces of a body, whether they are chunks or parts that arrive alone."""
        self._reads += 1
        self._framing_bytes += framing_bytes
        pieces = self._reads + self._framing_bytes // _MIN_FRAMING_BYTES
        if pieces > _FREE_PIECES + self._body.total_bytes // _MIN_PIECE_BYTES:
            self._is_broken = True
            self._body.set_exception(TooManyPieces())

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

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        """See aiohttp, which would answer an unknown expectation with plain text that quotes it."""
        expectation = request.headers.get("Expect", CONTINUE)
        if expectation.lower() != CONTINUE and request.version == HttpVersion11:
            return await super()._handle_request(request, start_time, self._refuse_expectation)
        return await super()._handle_request(request, start_time, request_handler)

    async def _refuse_expectation(self, request: web.BaseRequest) -> web.StreamResponse:
        self.discard_body()
        sentence = f"The gateway meets no other expectation than '{CONTINUE}'; send the request without 'Expect'."
        return _closing(Problem("expectation_failed", sentence).response("", request.path))

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """See aiohttp. Close only when the client has sent all: a close with unread bytes would lose the response."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = self.handle_error(request, err_info.status, err_info.exc, err_info.message)
            await response.prepare(request)
            await response.write_eof()
            await self.linger()
            return response

        return answer

    async def linger(self) -> None:
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
        self._counted(problem.name)
        return _closing(problem.response("", "/"))


def _closing(response: web.Response) -> web.Response:
    """Return the response with the header fields of all responses, as the last one of its connection."""
    response.headers.update({"Cache-Control": "no-store", "Server": SERVER})
    response.force_close()
    return response
