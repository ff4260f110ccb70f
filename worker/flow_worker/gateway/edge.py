"""The outermost step of every HTTP request: limits, CORS, problem documents, and the headers of all responses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.connection import SERVER, Connection, TooManyPieces
from flow_worker.gateway.cors import Cors, RefusedOrigins
from flow_worker.gateway.limits import ActiveRequests
from flow_worker.gateway.problems import Problem, of_http, of_outage
from flow_worker.gateway.slow_clients import taken_within
from flow_worker.gateway.spans import Spans, end_request, name_problem
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_LARGE_BYTES: Final = 32 * 1024
"""A larger response may not fit into the socket's buffers, so that writing it waits for the client."""

Measured = Callable[[str, str, int, float], None]
"""Learns the method, the route, the status and the duration of a request in seconds. Status 0: its caller has gone."""


class Edge:
    """The middleware and the headers of one gateway."""

    def __init__(
        self,
        cors: Cors,
        active: ActiveRequests,
        *,
        base_url: Callable[[web.Request], str],
        write_seconds: float,
        measured: Measured,
        counted: Callable[[str], None],
        spans: Spans,
    ) -> None:
        """`counted` learns the code of each problem."""
        self._cors = cors
        self._refused_origins = RefusedOrigins()
        self._active = active
        self._base_url = base_url
        self._write_seconds = write_seconds
        self._measured = measured
        self._counted = counted
        self._spans = spans
        self.is_draining = False
        """Each response closes its connection, so that the client opens the next one to another replica."""

    @property
    def middleware(self) -> Middleware:
        """The outermost middleware."""

        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._answer(request, handler)

        return answer

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers of all responses, right before the first byte."""
        headers = response.headers
        headers["Cache-Control"] = "no-store"
        headers["Vary"] = "Origin, Prefer"
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Server"] = SERVER
        origin = request.headers.get("Origin")
        if not self._cors.apply(origin, headers) and origin is not None:
            self._refused_origins.note(origin, self._base_url(request))
        if self.is_draining:
            response.force_close()
            headers["Connection"] = "close"  # aiohttp has decided about it already

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began, route, status = time.perf_counter(), _route(request), 0
        with self._spans.serving(request, route) as span:
            try:
                response = await self._finished(request, handler)
                status = response.status
                return response
            finally:
                end_request(span, status)
                self._measured(request.method, route, status, time.perf_counter() - began)

    async def _finished(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Return the response, of which a large one is written already."""
        response = await self._response(request, handler)
        if response.status >= 400 and not request.content.is_eof() and isinstance(request.protocol, Connection):
            request.protocol.discard_body()
            response.force_close()
            if isinstance(request.content.exception(), TooManyPieces) and not response.prepared:
                await _written(request, response)
                await request.protocol.linger()
        is_large = isinstance(response, web.Response) and (response.content_length or 0) > _LARGE_BYTES
        if is_large and not response.prepared:
            await taken_within(request, self._write_seconds, _written(request, response))
        return response

    async def _response(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            return self._preflight(request)
        try:
            with self._active.entered():
                return await handler(request)
        except Problem as problem:
            return self._answered(problem, request)
        except web.HTTPException as error:
            return self._answered(of_http(error), request)
        except TemporarilyUnavailable as error:
            return self._answered(of_outage(error), request)
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client has gone
        except Exception:  # noqa: BLE001 - no exception's text may reach a caller
            sentence = "The gateway failed at a request with an internal error."
            log(_log, logging.ERROR, "gateway.internal_error", sentence, route=_route(request), method=request.method)
            detail = "The gateway failed at this request; its log has the cause."
            return self._answered(Problem("internal_error", detail), request)

    def _answered(self, problem: Problem, request: web.Request) -> web.Response:
        self._counted(problem.name)
        name_problem(problem.name)
        return problem.response(self._base_url(request), request.path)

    def _preflight(self, request: web.Request) -> web.Response:
        """Answer a preflight request, which carries no token. The methods are those of the route."""
        response = web.Response(status=204)
        error = request.match_info.http_exception
        methods = "" if error is None else error.headers.get("Allow", "")
        self._cors.apply_preflight(request.headers.get("Origin"), methods, response.headers)
        return response


async def _written(request: web.Request, response: web.StreamResponse) -> None:
    await response.prepare(request)
    await response.write_eof()


def _route(request: web.Request) -> str:
    """Return the route's template: paths hold IDs."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical
