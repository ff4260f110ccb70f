"""Reads a flow's HTTP response into an answer: bounded in bytes, values and time, and large bodies in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import httpx

from flow_contracts.content_encoding import (
    BodyTooLarge,
    Encoding,
    IncompleteBody,
    UnsupportedEncoding,
    decompress,
    encoding_of,
)
from flow_contracts.strict_json import no_rest
from flow_worker.errors import CallFailed
from flow_worker.flows.answer import TOO_LARGE, Answer, Content, decode_body, masked_type, unread
from flow_worker.flows.decoding_turns import DecodingTurns
from flow_worker.flows.rests import Rests
from flow_worker.flows.status_url import resolve
from flow_worker.flows.token_echo import may_repeat, without_token
from flow_worker.masking import masked, may_hold_secret

_TRACKING_PREFIX = "x-ms-"
_RUN_ID = "x-ms-workflow-run-id"
_MAX_TRACKING_HEADERS = 32
_MAX_NAME_CHARACTERS = 128
_MAX_HEADER_CHARACTERS = 512
_MAX_TRACKING_CHARACTERS = 8 * 1024
"""Of all these headers together. A flow sends about 1,500."""
_MAX_INLINE_BYTES = 32 * 1024
"""A larger body is decoded in a thread. A thread costs about a tenth of a millisecond, decoding up to one for 2 KB."""
_THREADS = 1
"""Decoding holds the interpreter lock, so a second thread would only let the event loop wait twice."""
_UNSUPPORTED = unread(
    "output_encoding_unsupported",
    "The flow's answer has another Content-Encoding than gzip or deflate, or more than one, so the output is the body "
    "as the flow sent it; let the flow send one of them, or none.",
).unread
_NO_BODY = frozenset({*range(100, 200), 204, 205, 304})
"""Statuses without a body, whatever the headers say about its encoding (RFC 9112, 6.3; RFC 9110, 15.3.6)."""


@dataclass(frozen=True, slots=True)
class Received:
    """A response that was received as a whole, and not decoded yet."""

    status: int
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | Content = field(repr=False)
    """A `Content` if the worker did not read the body."""
    encoding: Encoding | None = Encoding.IDENTITY
    """None for a coding that the worker does not decode."""


class AnswerReader:
    """Receives and decodes responses."""

    def __init__(self, *, max_bytes: int, decode_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._decode_seconds = decode_seconds
        self._turns = DecodingTurns()
        # Threads of their own: the loop's default ones also resolve host names.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="flow-answer")

    def close(self) -> None:
        """Let the threads end after their present work."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def receive(self, response: httpx.Response) -> Received:
        """Read the body as it was sent, up to the limit. Raises `httpx.HTTPError` if the connection breaks."""
        status, url, headers = response.status_code, str(response.url), _headers(response)
        encoding: Encoding | None
        try:
            encoding = encoding_of((headers.get("content-encoding", ""),), (headers.get("transfer-encoding", ""),))
        except UnsupportedEncoding:
            encoding = None
        limit = self._max_bytes
        if encoding not in (None, Encoding.IDENTITY):  # a compressed body may be a little larger than its content
            limit += limit // 1000 + 1024
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_raw():
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                # Not an error: the flow ran, and the sender must learn its status.
                return Received(status, url, headers, TOO_LARGE)
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return Received(status, url, headers, body, encoding)

    async def answer(self, received: Received, token: str, *, flow: str = "") -> Answer:
        """Decode a response. `token`: the worker's own, which is masked wherever the flow sends it back.

        `flow`: large answers of one flow are decoded one after another, and other flows' answers between them.

        Raises `CallFailed` if the compressed body does not end: that is half an answer.
        """
        content = received.body if isinstance(received.body, Content) else await self._content(received, token, flow)
        headers = received.headers
        tracking = _tracking(headers, token)
        location = headers.get("location")
        return Answer(
            status=received.status,
            content=content,
            run_id=tracking.get(_RUN_ID),
            tracking=tracking,
            retry_after=headers.get("retry-after"),
            location=resolve(received.url, location) if location else None,
        )

    async def _content(self, received: Received, token: str, flow: str) -> Content:
        body = received.body
        assert isinstance(body, bytes)  # noqa: S101 - for the type checker
        work = partial(_decode, body, received, token)
        try:
            if len(body) <= _MAX_INLINE_BYTES:
                try:
                    return work(_MAX_INLINE_BYTES, may_rest=False)
                except BodyTooLarge:
                    pass  # a compressed body: a few bytes may become many
            return await self._in_turn(partial(work, self._max_bytes, may_rest=True), flow)
        except BodyTooLarge:
            return TOO_LARGE
        except IncompleteBody:
            raise CallFailed(
                "flow_no_answer",
                "The flow's answer is incomplete: its compressed body is cut off or damaged.",
                may_have_run=True,
            ) from None
        except TimeoutError:
            seconds = f"{self._decode_seconds:g} s"
            return unread("output_not_decoded", f"The worker could not decode the flow's answer within {seconds}.")

    async def _in_turn(self, work: Callable[[], Content], flow: str) -> Content:
        """Decode in the thread. The wait for the turn has its own deadline. Raises `TimeoutError`."""
        async with asyncio.timeout(self._decode_seconds):
            await self._turns.take(flow)
        try:
            decoding = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError:  # the worker stops
            self._turns.release()
            raise
        decoding.add_done_callback(self._release)
        async with asyncio.timeout(self._decode_seconds):
            return await asyncio.shield(decoding)

    def _release(self, decoding: asyncio.Future[Content]) -> None:
        """Release the turn when the thread is free, which may be after the deadline."""
        if not decoding.cancelled():
            decoding.exception()  # else asyncio reports it as never retrieved
        self._turns.release()


def _decode(body: bytes, received: Received, token: str, max_bytes: int, *, may_rest: bool) -> Content:
    rest = Rests() if may_rest else no_rest
    content_type = received.headers.get("content-type")
    if received.encoding is None and (body or not _has_end(received)):
        # The bytes are not what the media type says. The sender can still decode them, and must not call again.
        kind = None if content_type is None else masked_type(content_type, token)
        return replace(decode_body(body, None, token=token, rest=rest), output_type=kind, unread=_UNSUPPORTED)
    if not body:
        if received.encoding is not Encoding.IDENTITY and not _has_end(received):
            raise IncompleteBody
        return decode_body(body, content_type, token=token)
    plain = decompress(body, received.encoding or Encoding.IDENTITY, max_bytes)
    return decode_body(plain, content_type, token=token, rest=rest)


def _tracking(headers: Mapping[str, str], token: str) -> dict[str, str]:
    """Return the headers that describe the run, masked and cut."""
    names = sorted(
        (name for name in headers if name.startswith(_TRACKING_PREFIX)), key=lambda name: (name != _RUN_ID, name)
    )
    kept = {name: headers[name] for name in names[:_MAX_TRACKING_HEADERS]}
    if may_repeat(token, "\n".join(kept.values())):  # before the cut, which may leave half a token
        kept = {name: without_token(value, token) for name, value in kept.items()}
    kept = {name[:_MAX_NAME_CHARACTERS]: value[:_MAX_HEADER_CHARACTERS] for name, value in kept.items()}
    if may_hold_secret("\n".join((*kept, *kept.values()))):
        kept = {masked(name): masked(value) for name, value in kept.items()}
    tracking: dict[str, str] = {}
    left = _MAX_TRACKING_CHARACTERS
    for name, value in kept.items():
        left -= len(name) + len(value)
        if left < 0:
            break
        tracking[name] = value
    return dict(sorted(tracking.items()))


def _has_end(received: Received) -> bool:
    """Return whether the response says where its body ends. Otherwise an empty body may be one that is cut off."""
    headers = received.headers
    return received.status in _NO_BODY or "content-length" in headers or "transfer-encoding" in headers


def _headers(response: httpx.Response) -> dict[str, str]:
    """Return the headers in one pass: each lookup in httpx's mapping would go through all of them.

    Several lines of one header are one list (RFC 9110, 5.3). Two locations become none that a parser accepts.
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers.raw:
        name, value = _text(raw_name).lower(), _text(raw_value)
        before = headers.get(name)
        headers[name] = value if before is None or name in _SINGLE else f"{before}, {value}"
    return headers


_SINGLE = frozenset({"content-type", "retry-after", "set-cookie"})
"""Headers of one value, of which the last line counts."""


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
