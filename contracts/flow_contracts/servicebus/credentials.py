"""Names azure-core's credential protocols, and adapts a blocking credential to asyncio."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Self, cast

from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.core.credentials import TokenCredential as BlockingCredential
from azure.core.credentials_async import AsyncTokenCredential as AsyncCredential

__all__ = [
    "AsyncCredential",
    "BlockingCredential",
    "CredentialInThreads",
    "for_asyncio",
    "require_asynchronous",
    "require_blocking",
]

_STATIC = (AzureNamedKeyCredential, AzureSasCredential)
"""Credentials that hold a key or a signature, and fetch no token."""


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


def require_asynchronous(credential: object) -> None:
    """Raise `TypeError` for a credential that an asyncio client cannot use."""
    if isinstance(credential, _STATIC):
        return
    get_token = _get_token(credential)
    if not inspect.iscoroutinefunction(get_token) and not hasattr(credential, "__aenter__"):
        raise TypeError(
            f"credential is a blocking {type(credential).__name__}, and FlowClient needs one of azure.identity.aio, "
            "for example azure.identity.aio.DefaultAzureCredential(); or use FlowClientSync"
        )


def require_blocking(credential: object) -> None:
    """Raise `TypeError` for a credential that a blocking client cannot use."""
    if isinstance(credential, _STATIC):
        return
    get_token = _get_token(credential)
    if inspect.iscoroutinefunction(get_token) or (
        hasattr(credential, "__aenter__") and not hasattr(credential, "__enter__")
    ):
        raise TypeError(
            f"credential is an asynchronous {type(credential).__name__}, and FlowClientSync needs one of "
            "azure.identity, for example azure.identity.DefaultAzureCredential(); or use FlowClient"
        )


def for_asyncio(credential: BlockingCredential) -> AsyncCredential:
    """Return a blocking credential in the form for asyncio. Raises `TypeError` for one that is not blocking."""
    require_blocking(credential)
    # The SDK takes a key or a signature as it is.
    return cast("AsyncCredential", credential) if isinstance(credential, _STATIC) else CredentialInThreads(credential)


def _get_token(credential: object) -> object:
    get_token = getattr(credential, "get_token", None)
    if not callable(get_token) or isinstance(credential, type):
        raise TypeError(
            f"credential is {_kind(credential)}, which fetches no token; give a credential of azure-identity, such as "
            "DefaultAzureCredential(), or use from_connection_string"
        )
    return get_token


def _kind(credential: object) -> str:
    """Describe a wrong credential without its value, which may be a key."""
    if isinstance(credential, type):
        return f"the class {credential.__name__} instead of an object of it"
    return "None" if credential is None else f"of type {type(credential).__name__}"
