"""A small HTTP proxy with CONNECT, which counts its connections and may ask for a password."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class HttpProxy:
    """A running proxy. `targets` are the hosts with ports to which it connected, in their order."""

    password: str | None = None
    port: int = 0
    targets: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    """The URLs of the requests without TLS."""
    refused: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            if not self._is_authorised(head):
                self.refused += 1
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                return
            if method == "CONNECT":
                await self._tunnel(target, reader, writer)
            else:
                await self._forward(target, head, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _is_authorised(self, head: bytes) -> bool:
        if self.password is None:
            return True
        expected = base64.b64encode(f"proxyuser:{self.password}".encode())
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        return {name.lower(): value for name, value in headers.items()}.get(
            b"proxy-authorization"
        ) == b"Basic " + expected

    async def _tunnel(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await self._connect(target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._copy_both(reader, writer, *there)

    async def _forward(self, url: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.urls.append(url)
        parts = urlsplit(url)
        there = await self._connect(parts.netloc)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        there[1].write(head.replace(url.encode(), path.encode(), 1))
        await self._copy_both(reader, writer, *there)

    async def _connect(self, target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.targets.append(target)
        host, _, port = target.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    @staticmethod
    async def _copy_both(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there_reader: asyncio.StreamReader,
        there_writer: asyncio.StreamWriter,
    ) -> None:
        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.close()

        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))


@contextlib.asynccontextmanager
async def running_proxy(password: str | None = None) -> AsyncIterator[HttpProxy]:
    """Run a proxy on a free port."""
    proxy = HttpProxy(password)
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await proxy.serve(reader, writer)
        finally:
            connections.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
"""The variables in capitals; each exists in lower case, too."""
