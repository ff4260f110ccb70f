"""Keeps the journal's documents in Azure Table Storage, for workers on any number of machines.

Each document is one entity, compressed and cut into binary properties; an entity has at most 1 MiB.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.data.tables import TableEntity, UpdateMode

from flow_worker.journal.shared_table import MAX_PARTS, PART_BYTES, StoreInTable, TableKind, is_too_large
from flow_worker.journal.store import PROBE_KEY, DocumentTooLarge, StoredDocument

_log = logging.getLogger(__name__)

_PARTITION_DIGITS = 2
"""The leading hex digits of the key, a hash: 256 partitions, which the service can spread over its servers."""
_MAX_CONCURRENT_DELETES = 16
_PAGE = 200
"""Entities of one step of a listing; each has up to 1 MiB."""
_KIND = TableKind(
    name="journal's table",
    process="worker",
    settings="journal.",
    code="journal_unavailable",
    unreachable_event="journal.unreachable",
)


class TableStore(StoreInTable):
    """A store in one table. The caller sets the deadline of each operation; `purge`, with many calls, sets its own."""

    kind = _KIND

    async def read(self, key: str) -> StoredDocument | None:
        """See `Store.read`."""
        await self._table.ensure_exists()
        with self._table.errors_translated():
            try:
                entity = await self._client.get_entity(*_entity_key(key))
            except ResourceNotFoundError as error:
                self._table.raise_if_table_is_missing(error)
                return None
            return StoredDocument(_document_of(entity), str(entity.metadata["etag"]))

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        """See `Store.write`. Azure persists every write that it accepts, so `durable` changes nothing."""
        entity = _entity(key, document, expires)
        await self._table.ensure_exists()
        with self._table.errors_translated():
            try:
                return str((await self._put(entity, version))["etag"])
            except (ResourceExistsError, ResourceModifiedError):
                return None
            except ResourceNotFoundError as error:
                self._table.raise_if_table_is_missing(error)
                return None  # a purge deleted the entity, so `version` is not the stored one
            except HttpResponseError as error:
                if is_too_large(error):
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
        with self._table.errors_translated():
            await self._table.within_deadline(self._table.ensure_exists)
            pages = self._client.list_entities(results_per_page=_PAGE).by_page()
            while True:
                try:
                    page = await self._table.within_deadline(pages.__anext__)
                except StopAsyncIteration:
                    return
                async for entity in page:
                    yield _document_of(entity)

    async def probe(self, expires: datetime) -> None:
        """See `Store.probe`."""
        await self._table.ensure_exists()
        with self._table.errors_translated():
            await self._client.upsert_entity(_entity(PROBE_KEY, b"", expires), UpdateMode.REPLACE)

    async def purge(self, now: datetime, limit: int) -> int:
        """See `Store.purge`."""
        purged = 0
        with self._table.errors_translated():
            await self._table.within_deadline(self._table.ensure_exists)
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
        query = self._table.pages(
            query_filter="expires le @now",
            parameters={"now": now},
            select=["PartitionKey", "RowKey"],
            results_per_page=min(limit, 1000),
        )
        async for page in query:
            yield page

    async def _delete(self, entity: TableEntity) -> None:
        """Delete the entity unless it has changed since the query: a renewed entry has not expired any more."""

        async def delete() -> None:
            with suppress(ResourceModifiedError):
                await self._client.delete_entity(
                    entity, etag=entity.metadata["etag"], match_condition=MatchConditions.IfNotModified
                )

        await self._table.within_deadline(delete)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._table.close()


def _entity_key(key: str) -> tuple[str, str]:
    return key[:_PARTITION_DIGITS], key


def _entity(key: str, document: bytes, expires: datetime) -> TableEntity:
    data = zlib.compress(document)
    parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    if len(parts) > MAX_PARTS:
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
