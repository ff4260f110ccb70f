"""The worker's identity in Azure: the credentials of azure-identity, and the tokens that flows and Dataverse accept."""

from __future__ import annotations

import asyncio
import json
import time
from types import TracebackType
from typing import Literal, Self, assert_never

from azure.core.exceptions import AzureError
from azure.core.settings import settings as sdk
from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

from flow_contracts.servicebus.http_transport import EnvironmentProxyTransport
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import ServiceBusSettings
from flow_worker.telemetry.instruments import Timer
from flow_worker.telemetry.metrics import Metrics, timing

_MIN_RENEWAL_PAUSE_SECONDS = 30.0
"""Many calls can get a 401 for the same token; the first renewal serves all calls within this time."""
_CACHE_SECONDS = 10.0
"""The credential has its own cache, but reading it costs as much time as half a flow call."""


Audience = Literal["flow", "dataverse"]


def turn_off_sdk_tracing() -> None:
    """Turn the tracing of the Azure SDK off, whatever its variables and the distro of Azure Monitor say.

    It makes a span of each receive without a message, several a second, and overwrites a sender's `traceparent`. The
    spans of the worker's own replace it.
    """
    sdk.tracing_implementation = None
    sdk.tracing_enabled = False


class ManagedIdentity:
    """The worker's managed identity, as an async context manager.

    One credential serves all scopes, because a credential caches its tokens and keeps its connection. A credential for
    each call would ask the identity endpoint each time, and that endpoint throttles its callers.
    """

    def __init__(self, *, client_id: str | None, deadline_seconds: float, metrics: Metrics | None = None) -> None:
        """`client_id`: of a user-assigned identity; None for the system-assigned one.

        `deadline_seconds`: the longest wait for one token. `metrics` get the duration of each fetch.
        """
        self._metrics = metrics
        self._deadline = deadline_seconds
        self._credential = ManagedIdentityCredential(client_id=client_id, transport=_transport())

    async def __aenter__(self) -> Self:
        await self._credential.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._credential.close()

    def tokens(self, scope: str, audience: Audience = "flow") -> Tokens:
        """Return the source of tokens for one audience: `scope` is its resource followed by `/.default`."""
        timer = None if self._metrics is None else self._metrics.token_duration
        return Tokens(self._credential, scope, deadline_seconds=self._deadline, timer=timer, audience=audience)


class Tokens:
    """The bearer tokens for one audience."""

    def __init__(
        self,
        credential: ManagedIdentityCredential | DefaultAzureCredential,
        scope: str,
        *,
        deadline_seconds: float,
        timer: Timer | None = None,
        audience: Audience = "flow",
    ) -> None:
        self._credential = credential
        self._timer = timer
        self._audience = audience
        self._scope = scope
        self._deadline = deadline_seconds
        self._renewed_at = -_MIN_RENEWAL_PAUSE_SECONDS
        self._cached: tuple[float, str] | None = None

    async def token(self, *, fresh: bool = False) -> str:
        """Return an access token. `fresh` bypasses the credential's cache, as after a 401.

        The method renews a token at most every 30 s. The identity endpoint has its own cache, and would return the same
        token again.

        Raises `TemporarilyUnavailable` for every failure, because no call has used the token yet. The credential's
        errors vary with its endpoints: a bare KeyError for an answer without `resource`, a JSON error for a proxy's
        HTML page. So this method catches them as broadly as the credential raises them.
        """
        now = time.monotonic()
        renew = fresh and now - self._renewed_at >= _MIN_RENEWAL_PAUSE_SECONDS
        if self._cached is not None and now < self._cached[0] and not renew:
            return self._cached[1]
        try:
            with timing(self._timer, self._audience):
                async with asyncio.timeout(self._deadline):
                    token = await (self._renewed() if renew else self._current())
        except (AzureError, TimeoutError, OSError, ValueError, KeyError, json.JSONDecodeError) as error:
            raise TemporarilyUnavailable(
                "identity_unavailable", f"the managed identity's token is unavailable ({type(error).__name__})"
            ) from error
        self._cached = now + _CACHE_SECONDS, token
        return token

    async def _current(self) -> str:
        token: str = (await self._credential.get_token(self._scope)).token
        return token

    async def _renewed(self) -> str:
        """Fetch a token past the credential's cache.

        azure-identity has no option for this. A non-empty `claims` makes it skip its cache
        (`ManagedIdentityClientBase`), and an empty JSON object asks for no claim.
        """
        token: str = (await self._credential.get_token(self._scope, claims="{}")).token
        # Only after success: a failed renewal must not keep the next call from another attempt.
        self._renewed_at = time.monotonic()
        return token


def credential_for(
    settings: ServiceBusSettings, client_id: str | None = None
) -> ManagedIdentityCredential | DefaultAzureCredential | None:
    """Return a credential for Service Bus, or None if the settings hold a connection string.

    `client_id`: of a user-assigned identity. The caller closes the credential.
    """
    if settings.connection_string:
        return None
    match settings.credential:
        case "default":
            return DefaultAzureCredential(managed_identity_client_id=client_id, transport=_transport())
        case "managed-identity":
            return ManagedIdentityCredential(client_id=client_id, transport=_transport())
        case _:
            assert_never(settings.credential)


def _transport() -> EnvironmentProxyTransport:
    """Return a transport whose endpoint cannot answer one request with the token of another."""
    return EnvironmentProxyTransport(keep_alive=False)
