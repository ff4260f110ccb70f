"""Bounds the bytes of an HTTP response outside its body: interim responses, chunk sizes, extensions and trailers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

_MAX_FRAMING_BYTES = 512 * 1024
"""Beside a quarter of the body. aiohttp may hold 256 KiB of a body that it has not parsed yet, and they count too."""
_MAX_INTERIM_RESPONSES = 10
_HEAD_PIECE_BYTES = 16 * 1024
"""Before the final head, in pieces: one read could hold ten thousand interim responses."""


class TooMuchFraming(aiohttp.ClientPayloadError):
    """The response has too many interim responses, or too many bytes outside its body."""


class FramingLimit(ResponseHandler):
    """aiohttp's protocol of a connection, which counts per response."""

    _received = 0
    _interim = 0
    _final = False
    _exceeded = False

    def set_response_params(self, **params: Any) -> None:
        """Begin with the next response of the connection."""
        self._received = self._interim = 0
        self._final = False
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the limit is exceeded."""
        self._received += len(data)
        while not self._final and len(data) > _HEAD_PIECE_BYTES and not self._exceeded:
            super().data_received(data[:_HEAD_PIECE_BYTES])
            data = data[_HEAD_PIECE_BYTES:]
        if self._exceeded:
            return
        super().data_received(data)
        if self._received > _MAX_FRAMING_BYTES:
            body = self._payload.total_bytes if self._payload is not None else 0
            if self._received - body > _MAX_FRAMING_BYTES + body // 4:
                self._exceed()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Count the interim responses."""
        if self._exceeded:
            return
        if 100 <= data[0].code < 200:
            self._interim += 1
            if self._interim > _MAX_INTERIM_RESPONSES:
                self._exceed()
                return
        else:
            self._final = True
        super().feed_data(data, size)

    def _exceed(self) -> None:
        if self._exceeded:
            return
        self._exceeded = True
        error = TooMuchFraming("too many bytes outside the body of the response")
        payload = self._payload
        if self.transport is not None:
            self.transport.abort()
        self._payload = None
        self.set_exception(error)
        if payload is not None:
            payload.set_exception(error)


def limit_framing(connector: aiohttp.TCPConnector) -> aiohttp.TCPConnector:
    """Return the connector with the limit on its connections. aiohttp has no public way to name a protocol."""
    factory = partial(FramingLimit, loop=asyncio.get_running_loop())
    connector._factory = factory  # type: ignore[assignment]
    return connector
