"""Reads the body of a response so that no spelling of it holds the event loop.

aiohttp parses what it has received while the body is read, without a pause. A body in chunks of one byte takes several
microseconds a byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions

READ_BUFFER_BYTES = 16 * 1024
"""For aiohttp, which parses a sixteenth as many chunks at most before the next read: some 5 ms of the event loop."""
_SLOW_PIECE_BYTES = 16 * 1024
"""A smaller piece may consist of a thousand chunks."""


class PacedStream(httpx.AsyncByteStream):
    """A body whose reader lets the event loop do other work between two pieces. Bodies in small pieces take turns."""

    def __init__(self, stream: AiohttpResponseStream, turns: asyncio.Lock) -> None:
        self._stream = stream
        self._turns = turns

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the pieces of the body."""
        is_first = True
        with map_aiohttp_exceptions():
            async for piece in self._stream._aiohttp_response.content.iter_any():
                yield piece
                if is_first:
                    is_first = False
                elif len(piece) < _SLOW_PIECE_BYTES:
                    async with self._turns:
                        await asyncio.sleep(0)
                else:
                    await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Release the connection."""
        await self._stream.aclose()
