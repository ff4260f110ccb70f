"""Serves the worker's status as JSON at `/status`, to callers on this machine unless the settings allow others."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Literal

from aiohttp import web
from pydantic import JsonValue

StatusCallers = Literal["loopback", "all", "off"]
StatusSource = Callable[[], dict[str, JsonValue]]
Handler = Callable[[web.Request], Awaitable[web.Response]]

_NOT_HERE = (
    "The status is for callers on the worker's own machine or in its container. Use a port forwarding, or set "
    "health.status = 'all'.\n"
)
_NOT_YET = {"error": "The worker is starting. Ask again in a few seconds."}


def status_handler(source: Callable[[], StatusSource | None], callers: StatusCallers) -> Handler:
    """Return the handler of `/status`. `source` returns None while the worker starts."""

    async def answer(request: web.Request) -> web.Response:
        if callers == "off":
            return web.Response(text="health.status is 'off'.\n", status=404)
        if callers == "loopback" and not _is_local(request):
            return web.Response(text=_NOT_HERE, status=403)
        status = source()
        headers = {"Cache-Control": "no-store"}
        if status is None:
            return web.json_response(_NOT_YET, status=503, headers=headers)
        return web.json_response(status(), headers=headers)

    return answer


async def no_status(_: web.Request) -> web.Response:
    """Answer for a gateway, which has no status."""
    return web.json_response({"program": "gateway", "error": "A gateway has no status. Ask a worker."}, status=404)


def _is_local(request: web.Request) -> bool:
    """Return whether the caller is on this machine, and asked for this machine by its name.

    The second part keeps out a web page whose host name resolves to the loopback address: it would read the status with
    the browser of somebody on this machine.
    """
    host = (request.host or "").rsplit(":", 1)[0] if "]" not in (request.host or "") else request.host.split("]")[0]
    return _is_loopback(request.remote or "") and (host == "localhost" or _is_loopback(host.strip("[]")))


def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
