"""Keeps the responses of one connection apart, and bounds their bytes outside the body.

HTTP/1.1 has no request IDs: a response belongs to the request that is outstanding when it arrives. So bytes that arrive
while no request is outstanding break the connection. Otherwise they would become the answer to another sender's call.
"""

from __future__ import annotations

import asyncio
import select
from enum import Enum, auto
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

_MAX_FRAMING_BYTES = 512 * 1024
"""Beside those of chunks. aiohttp may hold 256 KiB of a body that it has not parsed yet, and they count too."""
_CHUNK_FRAMING = 6
"""The bytes beside each byte of a body in the smallest chunks. Some servers send each few bytes as a chunk."""
_MAX_CHUNK_FRAMING_BYTES = 512 * 1024
"""A chunk takes about two microseconds of the event loop, whatever its size."""
_MAX_INTERIM_RESPONSES = 10
_HEAD_PIECE_BYTES = 16 * 1024
"""Before the final head, in pieces: one read could hold ten thousand interim responses."""
_FIRST_ERROR = 400


class TooMuchFraming(aiohttp.ClientPayloadError):
    """The response has too many interim responses, or too many bytes outside its body."""


class ResponseBeforeRequest(aiohttp.ClientPayloadError):
    """A response began before the worker had sent the request as a whole, and reports success."""


class StaleConnection(aiohttp.ClientError):
    """The connection held bytes before the worker sent anything of the request, so the worker sent nothing."""


class _Stage(Enum):
    IDLE = auto()
    """No request is outstanding."""
    PREPARED = auto()
    """The connection has a request, and the worker has sent nothing of it."""
    SENDING = auto()
    SENT = auto()


class FramingLimit(ResponseHandler):
    """aiohttp's protocol of a connection, which counts per response."""

    _received = 0
    _interim = 0
    _final: StreamReader | None = None
    """The body of the final response, once its head was read."""
    _surplus = False
    _exceeded = False
    _stage = _Stage.IDLE
    _stale = False
    _requests = 0
    _unread: _UnreadBytes | None = None

    def set_response_params(self, **params: Any) -> None:
        """Begin with the next response of the connection."""
        self._received = self._interim = 0
        self._final = None
        self._surplus = False
        if self._stage is _Stage.IDLE:
            self._stage = _Stage.PREPARED
        self._requests += 1
        super().set_response_params(**params)

    def check(self) -> None:
        """Raise `StaleConnection` if the connection ended, or received something, before the request."""
        if self._stale or not super().is_connected():
            raise StaleConnection

    def begin_sending(self) -> None:
        """Note that the head of the request goes out now. Raises `StaleConnection`."""
        self.check()
        if self._has_unread_bytes():
            self._break()
            raise StaleConnection
        self._stage = _Stage.SENDING

    def start_timeout(self) -> None:
        """Note that the request was sent: aiohttp begins to wait for the response."""
        if self._stage is not _Stage.IDLE or not self._requests:  # CONNECT is sent before it is prepared
            self._stage = _Stage.SENT
        super().start_timeout()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note the end of the connection."""
        if self._stage is _Stage.PREPARED:
            self.set_exception(StaleConnection())
        super().connection_lost(exc)

    def is_connected(self) -> bool:
        """Return whether a request may use the connection. aiohttp asks this before it reuses one."""
        if not super().is_connected() or self._should_close:
            return False
        return self._stage is not _Stage.IDLE or not self._has_unread_bytes()

    def close(self) -> None:
        """Close the connection, without the rest of a request that has its answer already."""
        if self._stage is _Stage.SENDING:
            self.abort()
        else:
            super().close()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless no request is outstanding or the limit is exceeded."""
        if data and self._stage in (_Stage.IDLE, _Stage.PREPARED):
            self._break()
            return
        self._received += len(data)
        while self._final is None and len(data) > _HEAD_PIECE_BYTES and not self._exceeded:
            super().data_received(data[:_HEAD_PIECE_BYTES])
            data = data[_HEAD_PIECE_BYTES:]
        if self._exceeded:
            return
        super().data_received(data)
        if self._final is not None and self._final.is_eof():
            self._end()
        elif self._received > _MAX_FRAMING_BYTES:
            body = self._payload.total_bytes if self._payload is not None else 0
            framing = min(body * _CHUNK_FRAMING, _MAX_CHUNK_FRAMING_BYTES) + body // 4
            if self._received - body > _MAX_FRAMING_BYTES + framing:
                self._fail(TooMuchFraming("too many bytes outside the body of the response"))

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Count the interim responses, and take one final response."""
        if self._exceeded:
            return
        if self._final is not None:
            self._surplus = True
            return
        code = data[0].code
        if 100 <= code < 200:
            self._interim += 1
            if self._interim > _MAX_INTERIM_RESPONSES:
                self._fail(TooMuchFraming("too many interim responses"))
                return
        elif self._stage is _Stage.SENDING and code < _FIRST_ERROR:
            # No flow starts before it has its whole input, so this is the answer to something else.
            self._fail(ResponseBeforeRequest("a response came before the request was sent"))
            return
        else:
            self._final = data[1]
            if self._stage is _Stage.SENDING:  # the server need not read the rest of the request
                self._should_close = True
        super().feed_data(data, size)

    def _end(self) -> None:
        """Note the end of the final response. Bytes behind it belong to no request."""
        if self._stage is not _Stage.SENT:
            return
        self._stage = _Stage.IDLE
        if self._surplus or self._tail or self._has_begun_another():
            self._should_close = True

    def _has_begun_another(self) -> bool:
        """Return whether the parser holds the beginning of another response."""
        try:
            return self._parser is not None and self._parser.feed_eof() is not None
        except Exception:  # noqa: BLE001 - the beginning is malformed, too
            return True

    def _has_unread_bytes(self) -> bool:
        """Return whether bytes wait that asyncio has not read: of an earlier response, or of the peer's end.

        The first request of a connection is exempt, because TLS sends bytes after its handshake, too.
        """
        if not self._requests or (self._requests == 1 and self._stage is not _Stage.IDLE) or self.transport is None:
            return False
        if self._unread is None:
            self._unread = _UnreadBytes(self.transport)
        return self._unread.exist()

    def _break(self) -> None:
        """Give up a connection with bytes that belong to no request."""
        self._stale = True
        self._should_close = True
        transport = self.transport
        if transport is not None:
            transport.abort()
        if self._stage is _Stage.PREPARED:
            self.set_exception(StaleConnection())

    def _fail(self, error: aiohttp.ClientPayloadError) -> None:
        if self._exceeded:
            return
        self._exceeded = True
        payload = self._payload
        if self.transport is not None:
            self.transport.abort()
        self._payload = None
        self.set_exception(error)
        if payload is not None:
            payload.set_exception(error)


class _UnreadBytes:
    """Asks the operating system whether a socket has bytes, in about a microsecond."""

    def __init__(self, transport: asyncio.Transport) -> None:
        socket = transport.get_extra_info("socket")
        self._descriptor: int = -1 if socket is None else socket.fileno()
        self._poll = None
        # Windows has no poll. There select takes any descriptor; elsewhere only those below 1024.
        if hasattr(select, "poll") and self._descriptor >= 0:
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLIN)

    def exist(self) -> bool:
        """Return whether a read would return something, which may be the end of the stream."""
        if self._poll is not None:
            return bool(self._poll.poll(0))
        return self._descriptor >= 0 and bool(select.select([self._descriptor], [], [], 0)[0])


class ExclusiveRequest(aiohttp.ClientRequest):
    """A request that is sent only on a connection without bytes of an earlier response."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send the request. Raises `StaleConnection`."""
        protocol = _protocol(conn)
        protocol.check()
        if not self._body:  # else the head waits for the body, in `write_bytes`
            protocol.begin_sending()
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        """Send the head and the body."""
        protocol = _protocol(conn)
        try:
            protocol.begin_sending()
        except StaleConnection as error:
            protocol.set_exception(error)
            return
        await super().write_bytes(writer, conn, content_length)


def _protocol(conn: Connection) -> FramingLimit:
    protocol = conn.protocol
    assert isinstance(protocol, FramingLimit)  # noqa: S101 - `limit_framing` names it
    return protocol


def limit_framing(connector: aiohttp.TCPConnector) -> aiohttp.TCPConnector:
    """Return the connector with the limit on its connections. aiohttp has no public way to name a protocol."""
    factory = partial(FramingLimit, loop=asyncio.get_running_loop())
    connector._factory = factory  # type: ignore[assignment]
    return connector
