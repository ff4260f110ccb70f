"""One HTTP connection: aiohttp's own protocol, with a deadline for the head of a request and with problem documents."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from flow_worker.gateway.problems import Problem
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

SERVER: Final = "flow-worker"
"""The header field `Server`; aiohttp would name its version and Python's."""


class Connection(web.RequestHandler):
    """aiohttp bounds the time between two requests, and no time within the head of one."""

    __slots__ = ("_head_seconds", "_head_timer")

    def __init__(self, manager: web.Server, *, head_seconds: float, **options: Any) -> None:
        super().__init__(manager, **options)
        self._head_seconds = head_seconds
        self._head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser; begin to count at the first byte of a head, and stop at its end."""
        super().data_received(data)
        if self._messages or self._waiter is None or self._waiter.done():
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self._loop.call_later(self._head_seconds, self._end_slow_head)

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
            problem = Problem("header_too_large", "The request line or a header field is too long.")
        elif status != 400:
            sentence = "The gateway failed at a connection with an internal error."
            log(_log, logging.ERROR, "gateway.internal_error", sentence)
            problem = Problem("internal_error", "The gateway failed at this request; its log has the cause.")
        response = problem.response("", "/")
        response.headers.update({"Cache-Control": "no-store", "Server": SERVER})
        response.force_close()
        return response
