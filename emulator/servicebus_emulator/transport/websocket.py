"""AMQP over WebSocket: a listener, and an adapter from a WebSocket to an asyncio transport.

Path and subprotocols are those of the service (OASIS, "Advanced Message Queuing Protocol (AMQP) WebSocket Binding
(WSB)"). WebSocket messages are pieces of a byte stream: a message may hold many AMQP frames or a part of one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable

from aiohttp import WSCloseCode, WSMsgType, web

from servicebus_emulator.transport.addresses import WEBSOCKET_PATH
from servicebus_emulator.transport.web_callers import WebCallers
from servicebus_emulator.transport.web_guard import guard

SUBPROTOCOLS = ("AMQPWSB10", "amqp")
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Limit of one message from a client. A larger message closes the WebSocket with code 1009."""
_MAX_SENT_BYTES = 256 * 1024
"""Limit of one message to a client. All known clients accept at least 1 MiB."""
_CLOSE_SECONDS = 5.0
_STOP_SECONDS = 0.5


class WebSocketListener:
    """Creates an asyncio protocol for each WebSocket, as `loop.create_server` does for sockets.

    A client that has not requested a WebSocket within `handshake_seconds` is disconnected. `callers` are allowed
    beside those that address the loopback or the host of `start`.
    """

    def __init__(
        self,
        new_protocol: Callable[[], asyncio.Protocol],
        *,
        backlog: int,
        handshake_seconds: float,
        callers: WebCallers,
    ) -> None:
        self._callers = callers
        self._new_protocol = new_protocol
        self._backlog = backlog
        self._handshake_seconds = handshake_seconds
        application = web.Application(middlewares=[guard(lambda: self._callers)])
        application.add_routes([web.get(path, self._serve) for path in (WEBSOCKET_PATH, f"{WEBSOCKET_PATH}/")])
        # handler_cancellation ends a handler when its client disconnects, even one that has paused reading.
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_SECONDS
        )
        self._listener: asyncio.Server | None = None
        self._pending_handlers: set[web.RequestHandler] = set()

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Listen; return the bound port. Raises `OSError` if the port is in use."""
        self._callers = self._callers.with_host(host)
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
        """Accept no new clients. Connected clients stay."""
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """Stop listening and end all WebSockets."""
        self.stop_listening()
        await self._runner.cleanup()
        if self._listener is not None:
            await self._listener.wait_closed()

    def _new_handler(self) -> asyncio.BaseProtocol:
        assert self._runner.server is not None  # noqa: S101 - `start` sets the runner up before it listens
        handler = self._runner.server()
        asyncio.get_running_loop().call_later(self._handshake_seconds, self._abort_if_pending, handler)
        self._pending_handlers.add(handler)
        return handler

    def _abort_if_pending(self, handler: web.RequestHandler) -> None:
        """Disconnect a client without a request; aiohttp itself has no timeout for the first request."""
        if handler in self._pending_handlers:
            self._pending_handlers.discard(handler)
            if handler.transport is not None:
                handler.transport.abort()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        offered = {name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")} - {""}
        if offered and not offered & set(SUBPROTOCOLS):
            text = f"The server supports no offered subprotocol; offer one of {', '.join(SUBPROTOCOLS)}.\n"
            return web.Response(status=400, text=text)
        # No compression: on a local connection it costs more time than it saves.
        socket = web.WebSocketResponse(
            protocols=SUBPROTOCOLS, compress=False, max_msg_size=MAX_MESSAGE_BYTES, timeout=_CLOSE_SECONDS
        )
        await socket.prepare(request)
        self._pending_handlers.discard(request.protocol)
        await WebSocketTransport(socket, request.transport, self._new_protocol()).run()
        return socket


class WebSocketTransport(asyncio.Transport):
    """An asyncio transport over a WebSocket, so that a client connection does not know the difference."""

    def __init__(
        self, socket: web.WebSocketResponse, tcp: asyncio.Transport | None, protocol: asyncio.Protocol
    ) -> None:
        super().__init__()
        self._socket = socket
        self._tcp = tcp
        self._protocol = protocol
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._high = self._low = 0
        self._paused = False
        self._closing = tcp is None
        self._wake_writer = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()

    async def run(self) -> None:
        """Move bytes both ways until either end closes, or the client disconnects and the task is cancelled."""
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
        self._wake_writer.set()
        if self._unsent_bytes > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        self._closing = True
        self._wake_writer.set()

    def abort(self) -> None:
        self._closing = True
        if self._tcp is not None:
            self._tcp.abort()

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
        """Send the queued bytes; after `close`, send the rest and then the WebSocket's close frame."""
        # A WebSocket has no half-close (RFC 6455, section 5.5.1): no data may follow the close frame. The AMQP close
        # with its error must leave first, so `close` only sets a flag, and the queue is emptied before the close.
        try:
            while not self._closing or self._unsent:
                await self._wake_writer.wait()
                self._wake_writer.clear()
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
