"""The client of one organization's Web API: its token, its deadline and its throttling.

Privilege queries, result rows, notifications and run records share one client for each organization. Dataverse counts
them all for the same user: the worker's application user (Microsoft Learn, "Service protection API limits").
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import aiohttp
import httpx
from pydantic import JsonValue

from flow_worker.clock import retry_after
from flow_worker.dataverse.request_budget import RequestBudget
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.flows.framing_limit import StaleConnection
from flow_worker.flows.invoker import TokenSource

DATAVERSE_UNAVAILABLE = "dataverse_unavailable"
DATAVERSE_THROTTLED = "dataverse_throttled"

Method = Literal["GET", "POST", "PATCH"]

MAX_ANSWER_BYTES = 1 << 20
_MAX_ERROR_CHARACTERS = 10_000
_PIECE_BYTES = 64 * 1024
_HEADERS = {
    "accept": "application/json",
    # A compressed answer could expand to any size, and these answers are small.
    "accept-encoding": "identity",
    "odata-maxversion": "4.0",
    "odata-version": "4.0",
}
_NOTHING_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, StaleConnection)


class AnswerLost(TemporarilyUnavailable):
    """The request may have reached Dataverse, and no answer came."""


@dataclass(frozen=True, slots=True)
class WebApiAnswer:
    """An answer of the Web API."""

    status: int
    body: bytes = field(repr=False, default=b"")
    is_complete: bool = True
    """False if the body is compressed, or longer than `MAX_ANSWER_BYTES`: `body` then holds its start."""
    retry_after: datetime | None = None
    """The time that the header Retry-After names."""
    entity_id: str | None = None
    """The header OData-EntityId, which a write returns."""

    def json(self) -> dict[str, Any]:
        """Return the body's JSON object. Raises `ValueError` if the body is anything else."""
        if not self.is_complete:
            raise ValueError("the answer is compressed or too large")
        try:
            found = json.loads(self.body)
        except RecursionError as error:
            raise ValueError("the answer is nested too deeply") from error
        if not isinstance(found, dict):
            raise ValueError("the answer is not a JSON object")  # noqa: TRY004 - one error for each unusable answer
        return found

    @property
    def error_code(self) -> str | None:
        """The code of Dataverse's error body, such as `0x80040217`; None for a body of another form."""
        error = self._error()
        code = None if error is None else error.get("code")
        return code.lower() if isinstance(code, str) else None

    @property
    def error_text(self) -> str:
        """The message of Dataverse's error body, empty for a body of another form. It can repeat what was sent."""
        error = self._error()
        message = None if error is None else error.get("message")
        return message[:_MAX_ERROR_CHARACTERS] if isinstance(message, str) else ""

    def _error(self) -> dict[str, Any] | None:
        try:
            error = self.json().get("error")
        except ValueError:
            return None
        return error if isinstance(error, dict) else None


class DataverseClient:
    """Sends requests to the Web API of one organization."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        tokens: TokenSource,
        *,
        request_seconds: float,
        now: Callable[[], datetime],
        budget: RequestBudget | None = None,
    ) -> None:
        """`url`: the organization's URL without a trailing slash. `request_seconds`: the deadline of one request.

        `budget` limits the requests that are not urgent.
        """
        self.url = url
        self._client = client
        self._api = f"{url}/api/data/v9.2"
        self._tokens = tokens
        self._request_seconds = request_seconds
        self._now = now
        self._budget = budget
        self._throttled_until: datetime | None = None

    @property
    def throttled_until(self) -> datetime | None:
        """The end of the pause that Dataverse asked for with its last 429; None without a pause."""
        until = self._throttled_until
        return until if until is not None and self._now() < until else None

    async def get(
        self, path: str, *, headers: Mapping[str, str] | None = None, is_urgent: bool = False
    ) -> WebApiAnswer:
        """Send a GET; see `send`."""
        return await self.send("GET", path, headers=headers, is_urgent=is_urgent)

    async def send(
        self,
        method: Method,
        path: str,
        *,
        content: JsonValue = None,
        headers: Mapping[str, str] | None = None,
        is_urgent: bool = False,
    ) -> WebApiAnswer:
        """Send a request for `path`, the part of the URL after the API's version. Return the answer of any status.

        After a 401 it sends the request once more with a token past every cache, because Entra may have revoked the
        token before its expiry.

        `is_urgent`: a flow's request waits for the answer, so the budget of deliveries does not count.

        Raises `AnswerLost` if the request may have arrived, and `TemporarilyUnavailable` if it did not: Dataverse is
        unreachable, no token is available, or Dataverse throttles the worker. The same if the budget is spent.
        """
        self._require_no_throttling()
        if self._budget is not None and not is_urgent:
            self._budget.spend()
        body = None if content is None else json.dumps(content, separators=(",", ":")).encode()
        answer = await self._once(method, path, body, headers or {}, fresh=False)
        if answer.status == 401:
            answer = await self._once(method, path, body, headers or {}, fresh=True)
        if answer.status == 429:
            # Dataverse limits the worker's user, not this request, so every request has to pause.
            self._throttled_until = _later(self._throttled_until, answer.retry_after)
        return answer

    def _require_no_throttling(self) -> None:
        # While Dataverse throttles the worker, each further request would prolong the pause.
        if (until := self.throttled_until) is not None:
            raise TemporarilyUnavailable(DATAVERSE_THROTTLED, "Dataverse throttles the worker's requests", until=until)

    async def _once(
        self, method: Method, path: str, body: bytes | None, headers: Mapping[str, str], *, fresh: bool
    ) -> WebApiAnswer:
        token = await self._tokens.token(fresh=fresh)
        sent = {**_HEADERS, **headers, "authorization": f"Bearer {token}"}
        if body is not None:
            # With its length, as a body in pieces would be sent in chunks otherwise.
            sent |= {"content-type": "application/json; charset=utf-8", "content-length": str(len(body))}
        content = None if body is None else _pieces(body)
        try:
            async with (
                asyncio.timeout(self._request_seconds),
                self._client.stream(method, self._api + path, content=content, headers=sent) as response,
            ):
                return await self._read(response)
        except (httpx.HTTPError, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(error) from error

    async def _read(self, response: httpx.Response) -> WebApiAnswer:
        body = bytearray()
        is_plain = response.headers.get("content-encoding", "identity").lower() == "identity"
        if is_plain:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    break
        return WebApiAnswer(
            status=response.status_code,
            body=bytes(body[:MAX_ANSWER_BYTES]),
            is_complete=is_plain and len(body) <= MAX_ANSWER_BYTES,
            retry_after=retry_after(response.headers.get("retry-after"), self._now()),
            entity_id=response.headers.get("odata-entityid"),
        )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield the body in pieces: aiohttp writes bytes at once, which holds the event loop while they are long."""
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]


def _unreachable(error: Exception) -> TemporarilyUnavailable:
    """Return the error of a request without an answer.

    aiohttp's own error decides what was sent: see `flow_worker.flows.invoker`.
    """
    text = f"Dataverse is unreachable ({type(error).__name__})"
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) else error
    if isinstance(cause, (*_NOTHING_SENT, aiohttp.ClientHttpProxyError)):
        return TemporarilyUnavailable(DATAVERSE_UNAVAILABLE, text)
    return AnswerLost(DATAVERSE_UNAVAILABLE, text)
