"""The worker's managed identity: azure-identity's own credential, one for the process, and the tokens it gives."""

from __future__ import annotations

import asyncio
import json
import time
from types import TracebackType
from typing import Self, assert_never

from azure.core.exceptions import AzureError
from azure.identity.aio import DefaultAzureCredential, ManagedIdentityCredential

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.settings import ServiceBusSettings

_RENEWED_AT_MOST_EVERY = 30.0
"""Seconds. Many calls may meet the same 401 at once."""
_HELD_SECONDS = 10.0
"""The credential keeps its tokens itself, but looking one up costs it as much as half a call of a flow."""


class ManagedIdentity:
    """Gives bearer tokens for one audience after another; caching and refresh are the credential's."""

    def __init__(self, *, client_id: str | None, deadline_seconds: float) -> None:
        self._deadline = deadline_seconds
        self._credential = ManagedIdentityCredential(client_id=client_id)

    async def __aenter__(self) -> Self:
        await self._credential.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._credential.close()

    def tokens(self, scope: str) -> Tokens:
        """The tokens for one audience: `scope` is its resource followed by `/.default`."""
        return Tokens(self._credential, scope, deadline_seconds=self._deadline)


class Tokens:
    """The bearer tokens for one audience."""

    def __init__(self, credential: ManagedIdentityCredential, scope: str, *, deadline_seconds: float) -> None:
        self._credential = credential
        self._scope = scope
        self._deadline = deadline_seconds
        self._renewed_at = -_RENEWED_AT_MOST_EVERY
        self._held: tuple[float, str] | None = None

    async def token(self, *, fresh: bool = False) -> str:
        """The access token. Raises `TemporarilyUnavailable` whatever went wrong: nothing was called with it yet.

        `fresh` asks past the credential's cache, as after a 401; but a token renewed just now is not renewed again:
        the platform keeps its own cache, and there is none fresher to be had.

        The credential's own errors are as varied as its endpoints (a bare KeyError for an answer without
        `resource`, JSON errors for a proxy's HTML page), so they are caught as broadly as it throws them.
        """
        now = time.monotonic()
        renewed = fresh and now - self._renewed_at >= _RENEWED_AT_MOST_EVERY
        if self._held is not None and now < self._held[0] and not renewed:
            return self._held[1]
        try:
            async with asyncio.timeout(self._deadline):
                token = await (self._renewed() if renewed else self._cached())
        except (AzureError, TimeoutError, OSError, ValueError, KeyError, json.JSONDecodeError) as error:
            raise TemporarilyUnavailable(
                "identity_unavailable", f"no managed-identity token could be had ({type(error).__name__})"
            ) from error
        self._held = now + _HELD_SECONDS, token
        return token

    async def _cached(self) -> str:
        token: str = (await self._credential.get_token(self._scope)).token
        return token

    async def _renewed(self) -> str:
        """Claims make the credential pass over its cache (azure-identity, `ManagedIdentityClientBase`)."""
        token: str = (await self._credential.get_token(self._scope, claims="{}")).token
        self._renewed_at = time.monotonic()
        return token


def credential_for(
    settings: ServiceBusSettings, client_id: str | None = None
) -> ManagedIdentityCredential | DefaultAzureCredential | None:
    """Return the credential for Service Bus, or None if the settings hold a connection string.

    `client_id`: of a user-assigned identity. Each caller closes its credential: the worker's bus and a CLI command
    live for different times.
    """
    if settings.connection_string:
        return None
    match settings.credential:
        case "default":
            return DefaultAzureCredential(managed_identity_client_id=client_id)
        case "managed-identity":
            return ManagedIdentityCredential(client_id=client_id)
        case _:
            assert_never(settings.credential)
