"""The HTTP side of the namespace: one port for administration and REST data plane."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote

from aiohttp import web

from emulator.admin.entities import Entities
from emulator.admin.requests import refused
from emulator.admin.rest import DataPlane
from emulator.servicebus.access import OPEN, Gatekeeper
from emulator.servicebus.broker import Broker
from emulator.servicebus.errors import ServiceBusError

MAX_HEADER_BYTES = 64 * 1024
"""Of one header: properties of a message travel in headers."""
_STOP_SECONDS = 0.5
_HEALTHY = {"status": "healthy", "message": "Service is healthy."}


@asynccontextmanager
async def running_admin(
    broker: Broker,
    host: str,
    port: int,
    *,
    gatekeeper: Gatekeeper = OPEN,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve until the block ends; the URL, without a slash. Port 0 picks a free one.

    Raises `OSError` if the port cannot be had.
    """
    site = _Site(broker, gatekeeper)
    application = web.Application()
    application.add_routes([web.get("/health", _health), web.route("*", "/{path:.*}", site.answer)])
    # Who hangs up while it waits for a message does not take it.
    runner = web.AppRunner(
        application,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_STOP_SECONDS,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024).start()
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        yield f"{'https' if tls else 'http'}://{shown}:{bound}"
    finally:
        await runner.cleanup()


class _Site:
    def __init__(self, broker: Broker, gatekeeper: Gatekeeper) -> None:
        self._entities = Entities(broker, gatekeeper)
        self._messages = DataPlane(broker, gatekeeper)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.rel_url.raw_path.lstrip("/")
        try:
            answer = await self._messages.answer(request, path)
            return answer or await self._entities.answer(request, unquote(path))
        except ServiceBusError as error:
            return refused(error)


async def _health(_: web.Request) -> web.Response:
    return web.json_response(_HEALTHY)
