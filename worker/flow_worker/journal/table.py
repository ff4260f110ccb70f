"""The journal's documents in Azure Table Storage: for any number of workers on any number of machines.

One entity for each document, compressed and cut into binary properties. The limits are the service's: 64 KiB for a
property, 1 MiB for an entity (Microsoft Learn, "Understanding the Table service data model").
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

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.store import DocumentTooLarge, StoredDocument
from flow_worker.settings import InvalidSettings
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)

_PART_BYTES = 60 * 1024
_MAX_PARTS = 12
"""720 KiB, which stay below 1 MiB in base64: beyond, aiohttp warns of bodies that hold up the event loop."""
_PARTITION_DIGITS = 2
"""Of the key, which is a hash: 256 partitions, which the service may spread over its servers."""
_DELETES_AT_ONCE = 16
_AUDIENCES = {
    ".usgovcloudapi.net": "https://storage.azure.us",
    ".chinacloudapi.cn": "https://storage.azure.cn",
}
"""Of the sovereign clouds, by the host they are reached at; all other hosts take the SDK's default."""

# What goes wrong below is as varied as what answers at the endpoint: the SDK decodes a proxy's page as if it were its
# own error, and the credential lets through what its JSON lacks.
_TROUBLE = (AzureError, aiohttp.ClientError, OSError, ValueError, KeyError, AttributeError)


class TableStore:
    """A store in one table. The deadline of each operation is the caller's, but for `purge`, which makes many calls."""

    def __init__(self, client: TableClient, *, call_seconds: float) -> None:
        self._client = client
        self._call_seconds = call_seconds
        self._table_is_there = False
        self._opened = AsyncExitStack()

    @classmethod
    async def by_identity(cls, endpoint: str, table: str, *, client_id: str | None, call_seconds: float) -> Self:
        """Authorised by the managed identity. Raises `InvalidSettings`."""
        if urlsplit(endpoint).scheme != "https":
            raise InvalidSettings("journal.table_endpoint is not https; copy it from the storage account's endpoints")
        credential = ManagedIdentityCredential(client_id=client_id)
        host = (urlsplit(endpoint).hostname or "").lower()
        audience = next((one for suffix, one in _AUDIENCES.items() if host.endswith(suffix)), None)
        client = TableClient(endpoint, table, credential=credential, audience=audience, **_transport(call_seconds))
        return await cls(client, call_seconds=call_seconds)._open(credential)

    @classmethod
    async def by_connection_string(cls, connection_string: str, table: str, *, call_seconds: float) -> Self:
        """Authorised by an account key or a shared access signature. Raises `InvalidSettings`."""
        try:
            client = TableClient.from_connection_string(connection_string, table, **_transport(call_seconds))
        except ValueError as error:  # its text names what is missing, and quotes nothing
            raise InvalidSettings(f"journal.table_connection_string: {error}; copy it from the access keys") from None
        return await cls(client, call_seconds=call_seconds)._open()

    async def _open(self, credential: ManagedIdentityCredential | None = None) -> Self:
        """Make the table, if it is not there. A service that is away now is no reason not to start."""
        if credential is not None:
            self._opened.push_async_callback(credential.close)
        self._opened.push_async_callback(self._client.close)
        try:
            async with asyncio.timeout(self._call_seconds):
                await self._prepare()
        except (TemporarilyUnavailable, TimeoutError) as trouble:
            log(_log, logging.WARNING, "journal.unreachable", f"The journal's table is not to be had yet: {trouble}")
        except BaseException:
            await self.close()
            raise
        return self

    async def read(self, key: str) -> StoredDocument | None:
        """See `Store.read`."""
        await self._prepare()
        with self._told_apart():
            try:
                entity = await self._client.get_entity(*_place(key))
            except ResourceNotFoundError as error:
                self._refuse_lack_of_table(error)
                return None
            return StoredDocument(_joined(entity), str(entity.metadata["etag"]))

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        """See `Store.write`. Whatever Azure has accepted lasts."""
        entity = _entity(key, document, expires)
        await self._prepare()
        with self._told_apart():
            try:
                return str((await self._put(entity, version))["etag"])
            except (ResourceExistsError, ResourceModifiedError):
                return None
            except ResourceNotFoundError as error:
                self._refuse_lack_of_table(error)
                return None
            except HttpResponseError as error:
                if error.status_code == 413 or (_code(error) or "").endswith("TooLarge"):
                    raise DocumentTooLarge from None
                raise

    async def _put(self, entity: TableEntity, version: str | None) -> Mapping[str, Any]:
        if version is None:
            return await self._client.create_entity(entity)
        return await self._client.update_entity(
            entity, UpdateMode.REPLACE, etag=version, match_condition=MatchConditions.IfNotModified
        )

    async def purge(self, now: datetime, limit: int) -> int:
        """See `Store.purge`."""
        purged = 0
        with self._told_apart():
            await self._within(self._prepare)
            async for page in self._expired(now, limit):
                for start in range(0, len(page), _DELETES_AT_ONCE):
                    await asyncio.gather(*(self._delete(one) for one in page[start : start + _DELETES_AT_ONCE]))
                purged += len(page)
                if purged >= limit:
                    break
        return purged

    async def _expired(self, now: datetime, limit: int) -> AsyncIterator[list[TableEntity]]:
        """Keys and versions, page by page; pages may be empty, for the service looks at so many rows at a time."""
        found = self._client.query_entities(
            "expires le @now",
            parameters={"now": now},
            select=["PartitionKey", "RowKey"],
            results_per_page=min(limit, 1000),
        )
        pages = found.by_page()
        while True:
            try:
                page = await self._within(pages.__anext__)
            except StopAsyncIteration:
                return
            yield [entity async for entity in page]

    async def _delete(self, entity: TableEntity) -> None:
        """Delete it, unless it has changed since it was found."""

        async def delete() -> None:
            with suppress(ResourceModifiedError):
                await self._client.delete_entity(
                    entity, etag=entity.metadata["etag"], match_condition=MatchConditions.IfNotModified
                )

        await self._within(delete)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._opened.aclose()

    # --- trouble -------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        if self._table_is_there:
            return
        with self._told_apart():
            try:
                await self._client.create_table()
            except ResourceExistsError:
                pass
            except HttpResponseError as error:
                if error.status_code != 403:  # who may not make tables may still use one that is there
                    raise
        self._table_is_there = True

    def _refuse_lack_of_table(self, error: HttpResponseError) -> None:
        """An entity that is not there is an answer; a table that is not there is trouble."""
        if _code(error) == "TableNotFound":
            self._table_is_there = False
            raise error

    async def _within(self, work: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(self._call_seconds):
            return await work()

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Translate service errors to `TemporarilyUnavailable`. Error texts may hold signed URLs; codes do not."""
        try:
            yield
        except _TROUBLE as error:
            status = f" {error.status_code}" if isinstance(error, HttpResponseError) and error.status_code else ""
            what = f"{type(error).__name__}{status} {_code(error) or ''}".strip()
            raise TemporarilyUnavailable(
                "journal_unavailable", f"the journal's table cannot be had ({what})"
            ) from error


def _transport(call_seconds: float) -> dict[str, Any]:
    """No attempts of the SDK's own: a second one could meet what the first one wrote, and take it for another's."""
    return {"retry_total": 0, "connection_timeout": call_seconds, "read_timeout": call_seconds}


def _code(error: Exception) -> str | None:
    """The service's own code, wherever the SDK left it."""
    code = getattr(error, "error_code", None)
    if code is None:
        headers = getattr(getattr(error, "response", None), "headers", {})
        code = headers.get("x-ms-error-code")
    return None if code is None else str(getattr(code, "value", code))


def _place(key: str) -> tuple[str, str]:
    return key[:_PARTITION_DIGITS], key


def _entity(key: str, document: bytes, expires: datetime) -> TableEntity:
    data = zlib.compress(document)
    parts = [data[start : start + _PART_BYTES] for start in range(0, len(data), _PART_BYTES)]
    if len(parts) > _MAX_PARTS:
        raise DocumentTooLarge
    partition, row = _place(key)
    named = {f"part{number:02}": part for number, part in enumerate(parts)}
    return TableEntity(PartitionKey=partition, RowKey=row, expires=expires, **named)


def _joined(entity: TableEntity) -> bytes:
    names = sorted(name for name in entity if name.startswith("part"))
    try:
        return zlib.decompress(b"".join(entity[name] for name in names))
    except zlib.error as error:
        raise ValueError("an entity that is no journal entry") from error
