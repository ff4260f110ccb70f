"""The calls of `HttpFlowClient`: each has a token, and the client repeats it while the gateway is unavailable."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from flow_contracts.backoff import ExponentialBackoff
from flow_contracts.client.errors import GatewayRefused, GatewayUnavailable
from flow_contracts.proxies import Proxies
from flow_contracts.servicebus.credentials import AsyncCredential

_ANSWER_SECONDS = 30.0
"""The wait for an answer, beside the time that the client asks the gateway to wait for a result."""
_CONNECT_SECONDS = 10.0
_REPEATED = frozenset({408, 425, 429, 502, 503, 504})
_UNAUTHORIZED = 401
_RENEW_SECONDS = 300
"""The remaining lifetime below which the client fetches another token."""


class Tokens(Protocol):
    """Supplies the token of each call."""

    async def get(self, *, refused: bool) -> str:
        """Return a token; a new one if the gateway refused the last one."""
        ...


class CredentialTokens:
    """Tokens of a credential, kept until shortly before they expire: not every credential keeps them."""

    def __init__(self, credential: AsyncCredential, scope: str) -> None:
        self._credential = credential
        self._scope = scope
        self._token: str | None = None
        self._expires = 0.0

    async def get(self, *, refused: bool) -> str:
        """See `Tokens`."""
        if self._token is None or refused or time.time() > self._expires - _RENEW_SECONDS:
            given = await self._credential.get_token(self._scope)
            self._token, self._expires = given.token, given.expires_on
        return self._token


class GivenTokens:
    """A fixed token, or those that a function of the caller returns, blocking or not."""

    def __init__(self, source: str | Callable[[], str | Awaitable[str]]) -> None:
        self._source = source

    async def get(self, *, refused: bool) -> str:
        """See `Tokens`."""
        if isinstance(self._source, str):
            return self._source
        given = self._source()
        return await given if inspect.isawaitable(given) else given


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the gateway that is no error."""

    status: int
    body: bytes
    retry_after: float | None


class GatewayCalls:
    """Calls one gateway. Create it anywhere; call it on one event loop."""

    def __init__(self, gateway_url: str, tokens: Tokens) -> None:
        """Raises `ValueError` for a URL that is none of HTTP, and `InvalidProxy`."""
        self._base = _checked_url(gateway_url)
        self._tokens = tokens
        self._proxies = Proxies()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        wait: int = 0,
        settled: bool = False,
        patience: float,
    ) -> Answer:
        """Return the gateway's answer. Raises `GatewayUnavailable` and `GatewayRefused`.

        `wait`: the seconds that the gateway may wait for a result; `settled`: for another one than `unknown`.
        `patience`: the seconds of pauses after which the client stops repeating.
        """
        backoff = ExponentialBackoff(0.5, 30.0, jitter_from=1.0, jitter_to=1.2)
        paused, refused = 0.0, False
        for pause in backoff.pauses():
            token = await self._tokens.get(refused=refused)
            try:
                query = _query(wait, settled=settled)
                return await self._attempt(method, path + query, body, {**(headers or {})}, token, wait)
            except GatewayRefused as error:
                if error.status != _UNAUTHORIZED or refused:
                    raise
                refused = True  # the token may have expired: ask for another one, once
            except GatewayUnavailable as error:
                seconds = pause if error.retry_after is None else error.retry_after
                paused += seconds
                if paused > patience:
                    raise
                await asyncio.sleep(seconds)
        raise AssertionError("backoff is endless")

    async def _attempt(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], token: str, wait: int
    ) -> Answer:
        url = f"{self._base}/v1/{path}"
        headers["Authorization"] = f"Bearer {token}"
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS + wait, sock_connect=_CONNECT_SECONDS)
        try:
            async with self._open_session().request(
                method,
                URL(url, encoded=True),
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,  # a redirect must not get the token
                **self._by_proxy(url, headers),
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            kind = type(error).__name__  # not its text, which may repeat a URL
            raise GatewayUnavailable(f"the gateway did not answer ({kind})") from error
        retry_after = _retry_after(response.headers.get("Retry-After"))
        if response.status in (200, 202):
            return Answer(response.status, content, retry_after)
        raise _error(response.status, content, retry_after)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        return self._session

    def _by_proxy(self, url: str, headers: dict[str, str]) -> dict[str, Any]:  # Any: aiohttp's own options
        proxy = self._proxies.proxy_of(url)
        if proxy is None:
            return {}
        if url.startswith("https:"):
            return {"proxy": proxy.url, "proxy_headers": proxy.headers}  # of the CONNECT request
        headers.update(proxy.headers)
        return {"proxy": proxy.url}


def _query(wait: int, *, settled: bool) -> str:
    if not wait:
        return ""
    return f"?wait={wait}&settled=true" if settled else f"?wait={wait}"


def _error(status: int, content: bytes, retry_after: float | None) -> GatewayUnavailable | GatewayRefused:
    """Return the error of a problem document (RFC 9457); a proxy before the gateway may answer anything."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    problem = document if isinstance(document, dict) else {}
    code = problem.get("code")
    code = code if isinstance(code, str) else f"http_{status}"
    said = problem.get("detail") or problem.get("title")
    message = f"the gateway answered {status} ({code})" + (f": {said}" if isinstance(said, str) else "")
    if status in _REPEATED:
        return GatewayUnavailable(message, code=code, status=status, retry_after=retry_after)
    return GatewayRefused(message, code=code, status=status)


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or "@" in url:
        raise ValueError("gateway_url must be the gateway's base URL, such as https://flows.contoso.com")
    return url.rstrip("/")
