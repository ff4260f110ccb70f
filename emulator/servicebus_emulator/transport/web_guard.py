"""Refuses the requests of foreign web pages, for every aiohttp application of the emulator (see `web_callers`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from servicebus_emulator.transport.web_callers import WebCallers

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guard(callers: Callable[[], WebCallers]) -> Middleware:
    """Return a middleware that answers 403 to callers that are not allowed. Unknown paths are guarded too."""

    @web.middleware
    async def refuse_foreign(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = callers().refusal(request.headers, request.scheme)
        if refusal is None:
            return await handler(request)
        return web.json_response({"error": {"code": "ForeignCaller", "message": refusal}}, status=403)

    return refuse_foreign
