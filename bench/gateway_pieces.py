"""Measures how long one caller of a gateway waits for an answer while others send bodies in pieces of one byte."""

from __future__ import annotations

import asyncio
import contextlib
import time

import aiohttp

CONNECTIONS = 4
_SECONDS = 3.0
_PAUSE_SECONDS = 0.01
_TIMEOUT_SECONDS = 30
_CHUNKS = b"1\r\n \r\n" * 20_000


async def longest_answer_ms(session: aiohttp.ClientSession, url: str, token: str, path: str) -> float:
    """Return the longest time of `GET /v1/flows` while some connections send tiny chunks to `path`, in milliseconds."""
    host, port = url.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await _get(session)  # the first one of a caller fetches the issuer's keys
    attacks = [
        asyncio.create_task(_send_again_and_again(host, int(port), head.encode() + _CHUNKS)) for _ in range(CONNECTIONS)
    ]
    longest, end = 0.0, time.perf_counter() + _SECONDS
    try:
        while time.perf_counter() < end:
            began = time.perf_counter()
            await _get(session)
            longest = max(longest, time.perf_counter() - began)
            await asyncio.sleep(_PAUSE_SECONDS)
        if ended := [attack for attack in attacks if attack.done()]:
            await ended[0]
    finally:
        for attack in attacks:
            attack.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)
    return longest * 1000


async def _get(session: aiohttp.ClientSession) -> None:
    async with session.get("/v1/flows") as answer:
        answer.raise_for_status()
        await answer.read()


async def _send_again_and_again(host: str, port: int, sent: bytes) -> None:
    while True:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            with contextlib.suppress(ConnectionError):  # the gateway closes the connection
                writer.write(sent)
                await writer.drain()
                await reader.read()
            writer.close()
