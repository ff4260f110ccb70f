"""The HTTP server of administration and REST data plane."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from urllib.parse import unquote

from aiohttp import web

from servicebus_emulator.admin.administration import Administration
from servicebus_emulator.admin.data_plane import DataPlane
from servicebus_emulator.admin.requests import error_response
from servicebus_emulator.servicebus.access import UNCHECKED, Authorizer
from servicebus_emulator.servicebus.entities.broker import Broker
from servicebus_emulator.servicebus.errors import ServiceBusError
from servicebus_emulator.transport.addresses import WILDCARD_ADDRESSES
from servicebus_emulator.transport.web_callers import WebCallers
from servicebus_emulator.transport.web_guard import guard

MAX_HEADER_BYTES = 64 * 1024
"""Limit of one header. It is high because message properties travel in headers."""
_STOP_SECONDS = 0.5
_BACKLOG_CONNECTIONS = 1024
_HEALTHY = {"status": "healthy", "message": "Service is healthy."}


class AdminServer:
    """Serves a broker over HTTP and HTTPS, on one or more ports."""

    def __init__(
        self, broker: Broker, *, authorizer: Authorizer = UNCHECKED, callers: WebCallers | None = None
    ) -> None:
        """`callers` are allowed beside those that address the loopback or a host of `start`."""
        self._callers = callers or WebCallers()
        self._broker = broker
        self._administration = Administration(broker, authorizer)
        self._data_plane = DataPlane(broker, authorizer)
        application = web.Application(middlewares=[guard(lambda: self._callers)])
        application.on_response_prepare.append(self._date)
        application.add_routes([web.get("/health", _health), web.route("*", "/{path:.*}", self._answer)])
        # handler_cancellation ends the receive of a client that disconnects: it must not take a message.
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_STOP_SECONDS,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> str:
        """Listen; return the URL without a trailing slash. Port 0 picks a free port.

        Raises `OSError` if the port is in use.
        """
        self._callers = self._callers.with_host(host)
        if self._runner.server is None:
            await self._runner.setup()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG_CONNECTIONS)
        await web.SockSite(self._runner, listener, ssl_context=tls, backlog=_BACKLOG_CONNECTIONS).start()
        shown = "localhost" if host in WILDCARD_ADDRESSES else f"[{host}]" if ":" in host else host
        return f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}"

    async def stop(self) -> None:
        """Stop listening and end all requests."""
        await self._runner.cleanup()

    async def _date(self, _: web.Request, response: web.StreamResponse) -> None:
        """State the broker's time, which a test may have moved, as the service states its own."""
        response.headers["Date"] = formatdate(self._broker.now(), usegmt=True)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path.lstrip("/")
        try:
            answer = await self._data_plane.answer(request, path)
            return answer or await self._administration.answer(request, unquote(path))
        except ServiceBusError as error:
            return error_response(error)


@asynccontextmanager
async def running_admin(
    broker: Broker,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    authorizer: Authorizer = UNCHECKED,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve on one port until the block ends; yield the URL. See `AdminServer.start`."""
    server = AdminServer(broker, authorizer=authorizer)
    try:
        yield await server.start(host, port, tls=tls)
    finally:
        await server.stop()


async def _health(_: web.Request) -> web.Response:
    return web.json_response(_HEALTHY)
