"""Keeps the journal's documents in Azure Table Storage, for workers on any number of machines.

Each document is one entity, compressed and cut into binary properties. A property holds at most 64 KiB, an entity at
most 1 MiB (Microsoft Learn, "Understanding the Table service data model").
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from datetime import datetime
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.data.tables import TableEntity, UpdateMode
from azure.data.tables.aio import TableClient
from azure.identity.aio import ManagedIdentityCredential

from flow_contracts.servicebus.http_transport import EnvironmentProxyTransport
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.store import PROBE_KEY, DocumentTooLarge, StoredDocument
from flow_worker.settings import InvalidSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_PART_BYTES = 60 * 1024
_MAX_PARTS = 12
"""720 KiB, which stay below 1 MiB in base64. Beyond that, aiohttp warns that the body holds up the event loop."""
_PARTITION_DIGITS = 2
"""The leading hex digits of the key, a hash: 256 partitions, which the service can spread over its servers."""
_MAX_CONCURRENT_DELETES = 16
_PAGE = 200
"""Entities of one step of a listing; each has up to 1 MiB."""
_AUDIENCES = {
    ".usgovcloudapi.net": "https://storage.azure.us",
    ".chinacloudapi.cn": "https://storage.azure.cn",
}
"""Token audiences of the sovereign clouds, by the suffix of the host. Other hosts use the SDK's default."""

# Wider than the SDK's own errors. The SDK parses a proxy's error page as if the service had sent it. The credential
# raises KeyError or AttributeError if the identity endpoint's JSON lacks a field.
_SDK_ERRORS = (AzureError, aiohttp.ClientError, OSError, ValueError, KeyError, AttributeError)


class TableStore:
    """A store in one table. The caller sets the deadline of each operation; `purge`, with many calls, sets its own."""

    def __init__(self, client: TableClient, *, call_seconds: float) -> None:
        self._client = client
        self._call_seconds = call_seconds
        self._table_exists = False
        self._resources = AsyncExitStack()

    @classmethod
    async def by_identity(cls, endpoint: str, table: str, *, client_id: str | None, call_seconds: float) -> Self:
        """Open the table with the managed identity. Raises `InvalidSettings` if the endpoint is not https."""
        if urlsplit(endpoint).scheme != "https":
            raise InvalidSettings("journal.table_endpoint is not https; copy it from the storage account's endpoints")
        credential = ManagedIdentityCredential(
            client_id=client_id, transport=EnvironmentProxyTransport(keep_alive=False)
        )
        host = (urlsplit(endpoint).hostname or "").lower()
        audience = next((audience for suffix, audience in _AUDIENCES.items() if host.endswith(suffix)), None)
        client = TableClient(
            endpoint, table, credential=credential, audience=audience, **_transport_options(call_seconds)
        )
        return await cls(client, call_seconds=call_seconds)._open(credential)

    @classmethod
    async def by_connection_string(cls, connection_string: str, table: str, *, call_seconds: float) -> Self:
        """Open the table with an account key or a shared access signature. Raises `InvalidSettings`."""
        try:
            client = TableClient.from_connection_string(connection_string, table, **_transport_options(call_seconds))
        except ValueError as error:  # its text names the missing part, and quotes no value
            raise InvalidSettings(f"journal.table_connection_string: {error}; copy it from the access keys") from None
        return await cls(client, call_seconds=call_seconds)._open()

    async def _open(self, credential: ManagedIdentityCredential | None = None) -> Self:
        """Create the table if it is missing. The worker also starts if the service is unreachable now."""
        if credential is not None:
            self._resources.push_async_callback(credential.close)
        self._resources.push_async_callback(self._client.close)
        try:
            async with asyncio.timeout(self._call_seconds):
                await self._ensure_table()
        except (TemporarilyUnavailable, TimeoutError) as error:
            reason = str(error) or f"no answer within {self._call_seconds:g} s"
            message = f"The worker cannot reach the journal's table yet: {reason}"
            log(_log, logging.WARNING, "journal.unreachable", message)
        except BaseException:
            await self.close()
            raise
        return self

    async def read(self, key: str) -> StoredDocument | None:
        """See `Store.read`."""
        await self._ensure_table()
        with self._errors_translated():
            try:
                entity = await self._client.get_entity(*_entity_key(key))
            except ResourceNotFoundError as error:
                self._raise_if_table_is_missing(error)
                return None
            return StoredDocument(_document_of(entity), str(entity.metadata["etag"]))

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        """See `Store.write`. Azure persists every write that it accepts, so `durable` changes nothing."""
        entity = _entity(key, document, expires)
        await self._ensure_table()
        with self._errors_translated():
            try:
                return str((await self._put(entity, version))["etag"])
            except (ResourceExistsError, ResourceModifiedError):
                return None
            except ResourceNotFoundError as error:
                self._raise_if_table_is_missing(error)
                return None  # a purge deleted the entity, so `version` is not the stored one
            except HttpResponseError as error:
                if error.status_code == 413 or (_error_code(error) or "").endswith("TooLarge"):
                    raise DocumentTooLarge from None
                raise

    async def _put(self, entity: TableEntity, version: str | None) -> Mapping[str, Any]:
        if version is None:
            return await self._client.create_entity(entity)
        return await self._client.update_entity(
            entity, UpdateMode.REPLACE, etag=version, match_condition=MatchConditions.IfNotModified
        )

    async def documents(self) -> AsyncIterator[bytes]:
        """See `Listing.documents`."""
        with self._errors_translated():
            await self._within_deadline(self._ensure_table)
            pages = self._client.list_entities(results_per_page=_PAGE).by_page()
            while True:
                try:
                    page = await self._within_deadline(pages.__anext__)
                except StopAsyncIteration:
                    return
                async for entity in page:
                    yield _document_of(entity)

    async def probe(self, expires: datetime) -> None:
        """See `Store.probe`."""
        await self._ensure_table()
        with self._errors_translated():
            await self._client.upsert_entity(_entity(PROBE_KEY, b"", expires), UpdateMode.REPLACE)

    async def purge(self, now: datetime, limit: int) -> int:
        """See `Store.purge`."""
        purged = 0
        with self._errors_translated():
            await self._within_deadline(self._ensure_table)
            async for page in self._expired(now, limit):
                for start in range(0, len(page), _MAX_CONCURRENT_DELETES):
                    await asyncio.gather(
                        *(self._delete(entity) for entity in page[start : start + _MAX_CONCURRENT_DELETES])
                    )
                purged += len(page)
                if purged >= limit:
                    break
        return purged

    async def _expired(self, now: datetime, limit: int) -> AsyncIterator[list[TableEntity]]:
        """Yield keys and versions by pages. A page may be empty, as the service scans a limited number of rows."""
        entities = self._client.query_entities(
            "expires le @now",
            parameters={"now": now},
            select=["PartitionKey", "RowKey"],
            results_per_page=min(limit, 1000),
        )
        pages = entities.by_page()
        while True:
            try:
                page = await self._within_deadline(pages.__anext__)
            except StopAsyncIteration:
                return
            yield [entity async for entity in page]

    async def _delete(self, entity: TableEntity) -> None:
        """Delete the entity unless it has changed since the query: a renewed entry has not expired any more."""

        async def delete() -> None:
            with suppress(ResourceModifiedError):
                await self._client.delete_entity(
                    entity, etag=entity.metadata["etag"], match_condition=MatchConditions.IfNotModified
                )

        await self._within_deadline(delete)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._resources.aclose()

    # --- errors --------------------------------------------------------------------------------------------------

    async def _ensure_table(self) -> None:
        if self._table_exists:
            return
        with self._errors_translated():
            try:
                await self._client.create_table()
            except ResourceExistsError:
                pass
            except HttpResponseError as error:
                if error.status_code != 403:  # without the right to create tables, the worker may use an existing one
                    raise
        self._table_exists = True

    def _raise_if_table_is_missing(self, error: HttpResponseError) -> None:
        """Raise the error if the whole table is missing. The SDK raises the same type for a missing entity."""
        if _error_code(error) == "TableNotFound":
            self._table_exists = False
            raise error

    async def _within_deadline(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(self._call_seconds):
            return await work()

    @contextmanager
    def _errors_translated(self) -> Iterator[None]:
        """Translate errors to `TemporarilyUnavailable` with their codes only: error texts may hold signed URLs."""
        try:
            yield
        except _SDK_ERRORS as error:
            status = f" {error.status_code}" if isinstance(error, HttpResponseError) and error.status_code else ""
            cause = f"{type(error).__name__}{status} {_error_code(error) or ''}".strip()
            raise TemporarilyUnavailable(
                "journal_unavailable", f"the journal's table is unavailable ({cause})"
            ) from error


def _transport_options(call_seconds: float) -> dict[str, Any]:
    """Turn off the SDK's retries: a retry could find the first attempt's write and report another worker's change."""
    return {"retry_total": 0, "connection_timeout": call_seconds, "read_timeout": call_seconds}


def _error_code(error: Exception) -> str | None:
    """Return the service's error code from wherever the SDK keeps it."""
    code = getattr(error, "error_code", None)
    if code is None:
        headers = getattr(getattr(error, "response", None), "headers", {})
        code = headers.get("x-ms-error-code")
    return None if code is None else str(getattr(code, "value", code))


def _entity_key(key: str) -> tuple[str, str]:
    return key[:_PARTITION_DIGITS], key


def _entity(key: str, document: bytes, expires: datetime) -> TableEntity:
    data = zlib.compress(document)
    parts = [data[start : start + _PART_BYTES] for start in range(0, len(data), _PART_BYTES)]
    if len(parts) > _MAX_PARTS:
        raise DocumentTooLarge
    partition, row = _entity_key(key)
    named = {f"part{number:02}": part for number, part in enumerate(parts)}
    return TableEntity(PartitionKey=partition, RowKey=row, expires=expires, **named)


def _document_of(entity: TableEntity) -> bytes:
    names = sorted(name for name in entity if name.startswith("part"))
    try:
        return zlib.decompress(b"".join(entity[name] for name in names))
    except zlib.error as error:
        raise ValueError("the entity is not a journal entry") from error
