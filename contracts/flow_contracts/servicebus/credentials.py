"""Names azure-core's credential protocols, and adapts a blocking credential to asyncio."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from azure.core.credentials import AccessToken
from azure.core.credentials import TokenCredential as BlockingCredential
from azure.core.credentials_async import AsyncTokenCredential as AsyncCredential

__all__ = ["AsyncCredential", "BlockingCredential", "CredentialInThreads"]


class CredentialInThreads:
    """A blocking credential as an asynchronous one: a worker thread fetches each token."""

    def __init__(self, credential: BlockingCredential) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:  # Any: as azure-core's protocol declares it
        """Fetch a token for these scopes."""
        return await asyncio.to_thread(self._credential.get_token, *scopes, **options)

    async def close(self) -> None:
        """Do nothing: the caller closes its own credential."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None
