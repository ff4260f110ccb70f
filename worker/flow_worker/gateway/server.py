"""Serves the HTTP API on a socket: connections within the limits, and a stop that finishes what is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from flow_worker.gateway.connection import Connection
from flow_worker.settings import GatewaySettings
from flow_worker.telemetry.listening import listening
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_LINGERING_SECONDS: Final = 2.0
"""How long the gateway reads the rest of a body that it has refused, so that the client reads the response."""
_POLL_SECONDS: Final = 0.02


class HttpServer:
    """The service that the supervisor runs."""

    name = "http"

    def __init__(
        self,
        app: web.Application,
        settings: GatewaySettings,
        *,
        on_stop: Callable[[], None],
        drain: Callable[[], Awaitable[None]],
        counted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`on_stop` ends all waits. `drain` returns once the submissions under way have ended.

        `counted` learns the code of each problem that a connection answers itself.
        """
        limits = settings.limits
        self._app = app
        self._settings = settings
        self._on_stop = on_stop
        self._drain = drain
        self._stopping = asyncio.Event()
        self._interrupted = asyncio.Event()
        self._options: dict[str, Any] = {
            "keepalive_timeout": limits.idle_seconds,
            "max_line_size": limits.max_header_bytes,
            "max_field_size": limits.max_header_bytes,
            "lingering_time": _LINGERING_SECONDS,
            "auto_decompress": False,
            "access_log": None,
            "head_seconds": limits.header_seconds,
            "max_head_bytes": 2 * limits.max_header_bytes,
            "counted": counted,
        }
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        self._listener: asyncio.Server | None = None
        self.address: tuple[str, int] = (settings.host, settings.port)
        """The address of the socket, once it is open."""

    async def open(self) -> None:
        """Listen. Raises `CannotListen`."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        host, port = self._settings.host, self._settings.port
        with listening(host, port, "gateway.port"):
            listener = await loop.create_server(self._connection, host, port, backlog=_BACKLOG)
        self._listener = listener
        self.address = listener.sockets[0].getsockname()[:2]

    @property
    def connections(self) -> int:
        """The number of open connections."""
        # The property `connections` of aiohttp copies all of them.
        return 0 if self._runner.server is None else len(self._runner.server._connections)

    def _connection(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None or self.connections >= self._settings.limits.max_connections:
            return _Refusal()
        return Connection(server, loop=asyncio.get_running_loop(), **self._options)

    async def run(self) -> None:
        """Serve until stopped, then finish the requests under way."""
        await self._stopping.wait()
        if self._listener is not None:
            self._listener.close()
        self._on_stop()
        finishing = asyncio.ensure_future(self._finish())
        interrupted = asyncio.ensure_future(self._interrupted.wait())
        await asyncio.wait([finishing, interrupted], return_when=asyncio.FIRST_COMPLETED)
        finishing.cancel()
        interrupted.cancel()

    async def _finish(self) -> None:
        await self._drain()
        server = self._runner.server
        while server is not None and any(one._request_in_progress for one in server.connections):  # noqa: ASYNC110 - aiohttp has no event for it
            await asyncio.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Accept no further connection, and end all waits."""
        self._stopping.set()

    def interrupt(self) -> None:
        """Do not wait for the requests under way any longer."""
        self._stopping.set()
        self._interrupted.set()

    async def close(self) -> None:
        """Close all connections."""
        if self._listener is not None:
            self._listener.close()
        if self._runner.server is not None:
            await self._runner.server.shutdown(timeout=0.1)
        await self._runner.cleanup()


class _Refusal(asyncio.Protocol):
    """Closes a connection beyond the limit at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
        log(_log, logging.DEBUG, "gateway.connection_refused", "The gateway has too many connections.")
