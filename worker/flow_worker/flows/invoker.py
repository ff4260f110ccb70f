"""Calls HTTP-triggered flows and polls their runs, bounded in time and size, with answers as plain data."""

from __future__ import annotations

import asyncio
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import quote

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import JsonValue
from pydantic_core import to_json

from flow_worker.errors import CallFailed
from flow_worker.flows.registry import Flow
from flow_worker.flows.status_url import is_signed

STATUS_URL_NOT_ALLOWED = "status_url_not_allowed"

_TRACKING_PREFIX = "x-ms-"
_RUN_ID = "x-ms-workflow-run-id"
_MAX_TRACKING_HEADERS = 32
_HEADERS = {"accept-encoding": "gzip, deflate", "user-agent": "flow-worker"}
_MAX_HEADER_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a flow. `body` is None if it was larger than the worker reads."""

    status: int
    content_type: str | None
    body: bytes | None
    run_id: str | None
    tracking: Mapping[str, str]
    retry_after: str | None = None
    location: str | None = field(default=None, repr=False)
    """Absolute. A secret, since it may carry a signature."""


class TokenSource(Protocol):
    """Provides the bearer token of the worker's identity."""

    async def token(self, *, fresh: bool = False) -> str:
        """Return a token; with `fresh`, a new one instead of a cached one.

        Raises `TemporarilyUnavailable` if the identity endpoint issues no token now.
        """
        ...


class Invoker:
    """Calls flows over one bounded connection pool."""

    def __init__(
        self,
        identity: TokenSource,
        *,
        connect_seconds: float,
        max_connections: int,
        keepalive_seconds: float,
        status_seconds: float,
        max_response_bytes: int,
    ) -> None:
        self._identity = identity
        self._status_seconds = status_seconds
        self._max_response_bytes = max_response_bytes
        # The bare transport, without httpx's client: redirects, cookies and authentication are unwanted here. The
        # client also costs as much CPU as the call.
        self._transport = http_transport(max_connections=max_connections, keepalive_seconds=keepalive_seconds)
        # Only connecting has a timeout in the transport; `_request` bounds the call as a whole.
        self._timeout = httpx.Timeout(None, connect=connect_seconds).as_dict()
        self._urls: dict[str, httpx.URL] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def token(self, *, fresh: bool = False) -> str:
        """Return the bearer token for the next call. Raises `TemporarilyUnavailable`.

        This is a separate step, so that a missing token is noticed before the call counts as begun. `fresh` bypasses
        all caches, because a flow refused the last token.
        """
        return await self._identity.token(fresh=fresh)

    async def invoke(
        self, flow: Flow, input_: JsonValue, *, token: str, correlation_id: str, traceparent: str | None
    ) -> Answer:
        """POST the input. Raises `CallFailed` if no complete answer comes within the flow's timeout."""
        headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "accept": "application/json, */*;q=0.5",
            # Quoted, since a correlation ID may hold line breaks and other characters that no header may hold.
            "x-ms-client-tracking-id": quote(correlation_id, safe=string.punctuation),
        }
        if traceparent:
            headers["traceparent"] = traceparent
        url = self._urls.get(flow.url)
        if url is None:  # cached: there are few registered flows, and httpx parses slowly
            url = self._urls[flow.url] = httpx.URL(flow.url)
        return await self._request("POST", url, flow.timeout_seconds, headers, to_json(input_))

    async def poll(self, flow: Flow, status_url: str, *, token: str) -> Answer:
        """GET the status of a run. Raises `CallFailed`; a status poll may be repeated for every flow.

        The bearer token is sent only if the URL carries no signature.
        """
        if not flow.status_hosts.allow(status_url):
            raise CallFailed(
                STATUS_URL_NOT_ALLOWED, "The status URL leads to a host that is not allowed.", may_have_run=False
            )
        headers = {"accept": "application/json, */*;q=0.5"}
        if not is_signed(status_url):
            headers["authorization"] = f"Bearer {token}"
        try:
            return await self._request("GET", status_url, self._status_seconds, headers)
        except CallFailed as failure:
            # A poll runs nothing, whether or not it reached the flow.
            raise CallFailed(failure.code, failure.message, may_have_run=False) from failure

    async def _request(
        self,
        method: str,
        url: str | httpx.URL,
        seconds: float,
        headers: Mapping[str, str],
        content: bytes | None = None,
    ) -> Answer:
        try:
            async with asyncio.timeout(seconds):
                request = httpx.Request(
                    method, url, headers={**_HEADERS, **headers}, content=content, extensions={"timeout": self._timeout}
                )
                response = await self._transport.handle_async_request(request)
                try:
                    return await self._read(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            # `asyncio.timeout` does not report how far the call came, so the flow may have run.
            raise CallFailed(
                "flow_timeout", f"The flow did not answer within {seconds:g} s.", may_have_run=True
            ) from None
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            raise _call_failed(error) from error

    async def _read(self, response: httpx.Response) -> Answer:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._max_response_bytes:
                # Not an error: the flow ran, and the sender must learn its status.
                return _answer(response, None)
        return _answer(response, bytes(body))


def http_transport(*, max_connections: int, keepalive_seconds: float) -> AiohttpTransport:
    """Return aiohttp's transport for httpx: it takes about a tenth of the CPU of httpx's own. It keeps no cookies."""
    limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=keepalive_seconds)

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=max_connections, keepalive_timeout=keepalive_seconds, ssl=httpx.create_ssl_context()
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return AiohttpTransport(client=session, limits=limits)


def http_client(*, connect_seconds: float, max_connections: int, keepalive_seconds: float) -> httpx.AsyncClient:
    """Return an httpx client on aiohttp's transport that keeps no cookies and follows no redirects.

    A cookie would link one sender's call to another's, and a redirect would carry the bearer token elsewhere.
    """
    return httpx.AsyncClient(
        transport=http_transport(max_connections=max_connections, keepalive_seconds=keepalive_seconds),
        timeout=httpx.Timeout(None, connect=connect_seconds),
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )


def _answer(response: httpx.Response, body: bytes | None) -> Answer:
    # One pass over the raw headers: each lookup in httpx's mapping would go through all of them.
    headers = {_text(name).lower(): _text(value) for name, value in response.headers.raw}
    tracking = {
        name: value[:_MAX_HEADER_CHARACTERS] for name, value in headers.items() if name.startswith(_TRACKING_PREFIX)
    }
    return Answer(
        status=response.status_code,
        content_type=headers.get("content-type"),
        body=body,
        run_id=tracking.get(_RUN_ID),
        tracking=dict(sorted(tracking.items())[:_MAX_TRACKING_HEADERS]),
        retry_after=headers.get("retry-after"),
        location=_location(response.url, headers.get("location")),
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _location(url: httpx.URL, location: str | None) -> str | None:
    if not location:
        return None
    try:
        return str(url.join(location))
    except httpx.InvalidURL:
        # Not None, which would mean a run without a status URL. `StatusHosts` refuses this one.
        return location


def _call_failed(error: httpx.HTTPError | aiohttp.ClientError) -> CallFailed:
    """Translate a transport error. `may_have_run` is false only if the worker certainly sent nothing.

    aiohttp's own error decides, because the httpx error misleads: if a server closes the connection in the middle, the
    transport raises a *connect* timeout. The worker would then call a flow again that had run. Only aiohttp's connector
    errors prove that the worker sent nothing.
    """
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) else error
    if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL):
        return CallFailed(
            "flow_unreachable",
            f"The worker could not connect to the flow ({type(cause).__name__}).",
            may_have_run=False,
        )
    kind = type(cause or error).__name__
    return CallFailed("flow_no_answer", f"The connection broke before the flow's answer ({kind}).", may_have_run=True)
