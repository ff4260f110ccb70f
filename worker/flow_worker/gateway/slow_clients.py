"""Ends connections whose client does not read its response."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web


async def taken_within(request: web.Request, seconds: float, writing: Awaitable[None]) -> None:
    """Await the writing of a part of a response. Abort the connection, and raise `ConnectionError`, after `seconds`.

    Closing would wait for the client, which may read a byte a minute and hold the memory of the response.
    """
    try:
        async with asyncio.timeout(seconds):
            await writing
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read its response") from None
