"""The network between a browser and a gateway: it can be lost, and come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Relay:
    """A running relay of TCP connections."""

    target: tuple[str, int]
    url: str = ""
    is_lost: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def lose(self) -> None:
        """Cut all connections, and every new one."""
        self.is_lost = True
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        if self.is_lost:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection(*self.target)
        both = {writer, there_writer}
        self._writers |= both
        try:
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        finally:
            self._writers -= both
            for each in both:
                each.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.write_eof()


@contextlib.asynccontextmanager
async def running_relay(url: str) -> AsyncIterator[Relay]:
    """Relay connections to the host of a URL until the block ends."""
    parts = urlsplit(url)
    relay = Relay((parts.hostname or "", parts.port or 80))
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        relay.lose()
        server.close()
