"""Calls HTTP-triggered flows and polls their runs, bounded in time and size, with answers as plain data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Protocol, Self

import aiohttp
import httpx
from aiohttp.connector import Connection
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream
from pydantic import JsonValue
from pydantic_core import to_json

from flow_contracts.content_encoding import ACCEPT_ENCODING
from flow_contracts.proxies import Proxies
from flow_worker.errors import CallFailed
from flow_worker.flows.answer import Answer
from flow_worker.flows.answer_reader import AnswerReader
from flow_worker.flows.framing_limit import ExclusiveRequest, StaleConnection, limit_framing
from flow_worker.flows.paced_stream import READ_BUFFER_BYTES, PacedStream
from flow_worker.flows.registry import Flow
from flow_worker.flows.status_url import PollAccess
from flow_worker.flows.tracking import TRACKING_HEADER, tracking_id

STATUS_URL_NOT_ALLOWED = "status_url_not_allowed"
STATUS_URL_NOT_SIGNED = "status_url_not_signed"

_MAX_STALE_CONNECTIONS = 3
_HEADERS = {"accept-encoding": ACCEPT_ENCODING, "user-agent": "flow-worker"}


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
        decode_seconds: float,
    ) -> None:
        self._identity = identity
        self._status_seconds = status_seconds
        self._reader = AnswerReader(max_bytes=max_response_bytes, decode_seconds=decode_seconds)
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
        self._reader.close()
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
            TRACKING_HEADER: tracking_id(correlation_id),
        }
        if traceparent:
            headers["traceparent"] = traceparent
        url = self._urls.get(flow.url)
        if url is None:  # cached: there are few registered flows, and httpx parses slowly
            url = self._urls[flow.url] = httpx.URL(flow.url)
        return await self._request("POST", url, flow, flow.timeout_seconds, headers, token, to_json(input_))

    async def poll(self, flow: Flow, status_url: str, *, token: str) -> Answer:
        """GET the status of a run. Raises `CallFailed`; a status poll may be repeated for every flow.

        The bearer token is sent only to the flow's own workflow, and only if the URL carries no signature.
        """
        access = flow.status_hosts.access(status_url, flow.url)
        if access is PollAccess.REFUSED:
            text = "The status URL is malformed, or leads to a host that is not allowed."
            raise CallFailed(STATUS_URL_NOT_ALLOWED, text, may_have_run=False)
        if access is PollAccess.NOT_SIGNED:
            text = "The status URL leads to another workflow and carries no signature."
            raise CallFailed(STATUS_URL_NOT_SIGNED, text, may_have_run=False)
        headers = {"accept": "application/json, */*;q=0.5"}
        if access is PollAccess.WITH_TOKEN:
            headers["authorization"] = f"Bearer {token}"
        try:
            return await self._request("GET", status_url, flow, self._status_seconds, headers, token)
        except CallFailed as failure:
            # A poll runs nothing, whether or not it reached the flow.
            raise CallFailed(failure.code, failure.message, may_have_run=False) from failure

    async def _request(
        self,
        method: str,
        url: str | httpx.URL,
        flow: Flow,
        seconds: float,
        headers: Mapping[str, str],
        token: str,
        content: bytes | None = None,
    ) -> Answer:
        try:
            async with asyncio.timeout(seconds):
                request = httpx.Request(
                    method, url, headers={**_HEADERS, **headers}, content=content, extensions={"timeout": self._timeout}
                )
                response = await self._transport.handle_async_request(request)
                try:
                    received = await self._reader.receive(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            # `asyncio.timeout` does not report how far the call came, so the flow may have run.
            raise CallFailed(
                "flow_timeout", f"The flow did not answer within {seconds:g} s.", may_have_run=True
            ) from None
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            raise _call_failed(error) from error
        except httpx.InvalidURL:
            text = "The URL cannot be called: it is malformed."
            raise CallFailed(STATUS_URL_NOT_ALLOWED, text, may_have_run=False) from None
        # Beyond the flow's own time: the answer is here, and decoding it has its own deadline.
        return await self._reader.answer(received, token, flow=flow.name)


class _AsciiReason(aiohttp.ClientResponse):
    """A response whose reason phrase is ASCII: `httpx_aiohttp` fails on others, and then leaves its connection open."""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Read the status line and the headers."""
        await super().start(connection)
        self.reason = (self.reason or "").encode("ascii", "replace").decode()
        return self


class ProxiedTransport(AiohttpTransport):
    """aiohttp's transport for httpx, with the proxy that the environment names for each URL."""

    def __init__(self, client: Callable[[], aiohttp.ClientSession], limits: httpx.Limits) -> None:
        super().__init__(client=client, limits=limits)
        self._proxies = Proxies()
        self._turns = asyncio.Lock()
        self._by_origin: dict[tuple[str, str, int | None], tuple[httpx.Proxy | None, Mapping[str, str]]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request."""
        if self._proxies:
            # The transport reads the proxy before it awaits anything, so concurrent requests cannot mix theirs.
            self.proxy, headers = self._proxy_of(request.url)
            request.headers.update(headers)
        for _ in range(_MAX_STALE_CONNECTIONS):
            try:
                response = await super().handle_async_request(request)
            except StaleConnection:
                continue  # nothing was sent, and the connection is closed
            if isinstance(response.stream, AiohttpResponseStream):
                response.stream = PacedStream(response.stream, self._turns)
            return response
        raise httpx.ConnectError("each connection was broken before the request") from StaleConnection()

    def _proxy_of(self, url: httpx.URL) -> tuple[httpx.Proxy | None, Mapping[str, str]]:
        """Return the proxy, and the headers of the request for it: without TLS there is no CONNECT request."""
        origin = url.scheme, url.host, url.port
        if origin not in self._by_origin:
            proxy = self._proxies.proxy_of(str(url.copy_with(path="/", query=None)))
            if proxy is None:
                self._by_origin[origin] = None, {}
            elif url.scheme == "https":
                self._by_origin[origin] = httpx.Proxy(proxy.url, headers=proxy.headers), {}
            else:
                self._by_origin[origin] = httpx.Proxy(proxy.url), proxy.headers
        return self._by_origin[origin]


def http_transport(*, max_connections: int, keepalive_seconds: float) -> AiohttpTransport:
    """Return aiohttp's transport for httpx: it takes about a tenth of the CPU of httpx's own. It keeps no cookies."""
    limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=keepalive_seconds)

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=max_connections, keepalive_timeout=keepalive_seconds, ssl=httpx.create_ssl_context()
        )
        return aiohttp.ClientSession(
            connector=limit_framing(connector),
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=ExclusiveRequest,
            response_class=_AsciiReason,
            read_bufsize=READ_BUFFER_BYTES,
        )

    return ProxiedTransport(session, limits)


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


_NOTHING_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, StaleConnection)


def _call_failed(error: httpx.HTTPError | aiohttp.ClientError) -> CallFailed:
    """Translate a transport error. `may_have_run` is false only if the worker certainly sent nothing.

    aiohttp's own error decides, because the httpx error misleads: if a server closes the connection in the middle, the
    transport raises a *connect* timeout. The worker would then call a flow again that had run. Only aiohttp's connector
    errors, and `StaleConnection`, prove that the worker sent nothing.
    """
    cause = error.__cause__ if isinstance(error, httpx.HTTPError) else error
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return CallFailed(
            "flow_unreachable", f"The proxy refused the connection to the flow ({cause.status}).", may_have_run=False
        )
    if isinstance(cause, _NOTHING_SENT):
        return CallFailed(
            "flow_unreachable",
            f"The worker could not connect to the flow ({type(cause).__name__}).",
            may_have_run=False,
        )
    kind = type(cause or error).__name__
    return CallFailed("flow_no_answer", f"The connection broke before the flow's answer ({kind}).", may_have_run=True)
