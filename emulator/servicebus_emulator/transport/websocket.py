"""AMQP over WebSocket: a listener, and a WebSocket in the form of an asyncio transport.

The path and the subprotocol are the service's (OASIS, "Advanced Message Queuing Protocol (AMQP) WebSocket Binding");
AMQP frames may share a WebSocket message or be spread over many.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

from aiohttp import WSCloseCode, WSMsgType, web

from servicebus_emulator.transport.addresses import WEBSOCKET_PATH

SUBPROTOCOLS = ("AMQPWSB10", "amqp")
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of one message from a client; a larger one closes the WebSocket with code 1009."""
_MAX_SENT_BYTES = 256 * 1024
"""Of one message to a client: none is known to take less than 1 MiB."""
_CLOSE_SECONDS = 5.0
_STOP_SECONDS = 0.5


class WebSocketListener:
    """Gives each WebSocket a protocol of its own, as `loop.create_server` does for sockets.

    Who has not asked for a WebSocket within `patience_seconds` is hung up on.
    """

    def __init__(self, new_protocol: Callable[[], asyncio.Protocol], *, backlog: int, patience_seconds: float) -> None:
        self._new_protocol = new_protocol
        self._backlog = backlog
        self._patience_seconds = patience_seconds
        application = web.Application()
        application.add_routes([web.get(path, self._serve) for path in (WEBSOCKET_PATH, f"{WEBSOCKET_PATH}/")])
        # A client that hangs up ends its handler, also one that waits until it may read on.
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_SECONDS
        )
        self._listener: asyncio.Server | None = None
        self._strangers: set[web.RequestHandler] = set()

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listen; the bound port. Raises `OSError` if it is taken."""
        await self._runner.setup()
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._new_handler, host, port, ssl=tls, backlog=self._backlog
            )
        except OSError:
            await self._runner.cleanup()
            raise
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    def stop_listening(self) -> None:
        """Take no new clients; those there are stay."""
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """End it all."""
        self.stop_listening()
        await self._runner.cleanup()
        if self._listener is not None:
            await self._listener.wait_closed()

    def _new_handler(self) -> asyncio.BaseProtocol:
        assert self._runner.server is not None  # noqa: S101 - it was set up before anyone listened
        handler = self._runner.server()
        asyncio.get_running_loop().call_later(self._patience_seconds, self._hang_up, handler)
        self._strangers.add(handler)
        return handler

    def _hang_up(self, handler: web.RequestHandler) -> None:
        """aiohttp itself would wait for a request for ever."""
        if handler in self._strangers:
            self._strangers.discard(handler)
            if handler.transport is not None:
                handler.transport.abort()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        offered = {one.strip() for one in request.headers.get("Sec-WebSocket-Protocol", "").split(",")} - {""}
        if offered and not offered & set(SUBPROTOCOLS):
            text = f"None of the subprotocols is spoken here; offer one of {', '.join(SUBPROTOCOLS)}.\n"
            return web.Response(status=400, text=text)
        # Compression would cost more time than it could save on the way to the same machine.
        socket = web.WebSocketResponse(
            protocols=SUBPROTOCOLS, compress=False, max_msg_size=MAX_MESSAGE_BYTES, timeout=_CLOSE_SECONDS
        )
        await socket.prepare(request)
        self._strangers.discard(request.protocol)
        await WebSocketTransport(socket, request.transport, self._new_protocol()).run()
        return socket


class WebSocketTransport(asyncio.Transport):
    """What `asyncio.Protocol` knows as a transport, over a WebSocket."""

    def __init__(
        self, socket: web.WebSocketResponse, below: asyncio.Transport | None, protocol: asyncio.Protocol
    ) -> None:
        super().__init__()
        self._socket = socket
        self._below = below
        self._protocol = protocol
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._high = self._low = 0
        self._paused = False
        self._closing = below is None
        self._something_to_do = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()

    async def run(self) -> None:
        """Carry bytes both ways until either end closes, or the task is cancelled because the client is gone."""
        self._protocol.connection_made(self)
        writing = asyncio.create_task(self._write_out())
        try:
            await self._read_in()
        finally:
            self._closing = True
            writing.cancel()
            self._protocol.connection_lost(None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        for start in range(0, len(data), _MAX_SENT_BYTES):
            self._unsent.append(bytes(data[start : start + _MAX_SENT_BYTES]))
        self._unsent_bytes += len(data)
        self._something_to_do.set()
        if self._unsent_bytes > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        self._closing = True
        self._something_to_do.set()

    def abort(self) -> None:
        self._closing = True
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._may_read.clear()

    def resume_reading(self) -> None:
        self._may_read.set()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self._unsent_bytes

    async def _read_in(self) -> None:
        while True:
            await self._may_read.wait()
            message = await self._socket.receive()
            if message.type is WSMsgType.BINARY:
                self._protocol.data_received(message.data)
            elif message.type is WSMsgType.TEXT:
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"AMQP is binary")
                return
            else:
                return

    async def _write_out(self) -> None:
        """Send what there is, and say goodbye when told to close."""
        try:
            while not self._closing or self._unsent:
                await self._something_to_do.wait()
                self._something_to_do.clear()
                while self._unsent:
                    await self._send_next()
            await self._socket.close()
        except ConnectionError:
            self.abort()

    async def _send_next(self) -> None:
        message = self._unsent.popleft()
        await self._socket.send_bytes(message)
        self._unsent_bytes -= len(message)
        if self._paused and self._unsent_bytes <= self._low:
            self._paused = False
            self._protocol.resume_writing()
