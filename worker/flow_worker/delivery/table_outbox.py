"""Keeps the outbox in Azure Table Storage, in a table beside the journal's.

A table of its own: the journal's listing and its purge read the whole of their table, and earlier versions do too.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
from azure.data.tables import TableEntity, UpdateMode

from flow_worker.delivery.store import Row, StoredRow
from flow_worker.journal.shared_table import StoreInTable, TableKind

_PARTITION_DIGITS = 2
_MAX_PAGE = 200
_KIND = TableKind(
    name="outbox's table",
    process="worker",
    settings="journal.",
    code="journal_unavailable",
    unreachable_event="outbox.unreachable",
)


class TableOutbox(StoreInTable):
    """An `OutboxStore` in one table."""

    kind = _KIND

    async def read(self, key: str) -> StoredRow | None:
        """See `OutboxStore.read`."""
        await self._table.ensure_exists()
        with self._table.errors_translated():
            try:
                entity = await self._table.within_deadline(lambda: self._client.get_entity(*_entity_key(key)))
            except ResourceNotFoundError as error:
                self._table.raise_if_table_is_missing(error)
                return None
            return _row_of(entity)

    async def write(self, row: Row, version: str | None) -> str | None:
        """See `OutboxStore.write`."""
        entity = _entity(row)
        await self._table.ensure_exists()
        with self._table.errors_translated():
            try:
                written: Mapping[str, Any] = await self._table.within_deadline(lambda: self._put(entity, version))
                return str(written["etag"])
            except (ResourceExistsError, ResourceModifiedError):
                return None
            except ResourceNotFoundError as error:
                self._table.raise_if_table_is_missing(error)
                return None  # another worker deleted the record, so `version` is not the stored one

    async def _put(self, entity: TableEntity, version: str | None) -> Mapping[str, Any]:
        if version is None:
            return await self._client.create_entity(entity)
        return await self._client.update_entity(
            entity, UpdateMode.REPLACE, etag=version, match_condition=MatchConditions.IfNotModified
        )

    async def delete(self, key: str, version: str) -> bool:
        """See `OutboxStore.delete`."""
        partition, row = _entity_key(key)

        async def delete() -> bool:
            try:
                await self._client.delete_entity(
                    {"PartitionKey": partition, "RowKey": row},
                    etag=version,
                    match_condition=MatchConditions.IfNotModified,
                )
            except (ResourceModifiedError, ResourceNotFoundError):
                return False
            return True

        with self._table.errors_translated():
            is_deleted: bool = await self._table.within_deadline(delete)
        return is_deleted

    async def due(self, sink: str, now: datetime, limit: int) -> list[StoredRow]:
        """See `OutboxStore.due`. The service cannot sort."""
        query, found = {"sink": sink, "now": now}, list[StoredRow]()
        async for page in self._pages("sink eq @sink and due le @now", query, limit):
            found += page
            if len(found) >= limit:
                break
        return found[:limit]

    async def sinks(self) -> list[str]:
        """See `OutboxStore.sinks`."""
        found: set[str] = set()
        with self._table.errors_translated():
            await self._table.within_deadline(self._table.ensure_exists)
            async for page in self._table.pages(query_filter="", select=["sink"], results_per_page=1000):
                found |= {str(entity["sink"]) for entity in page}
        return sorted(found)

    async def rows(self) -> AsyncIterator[StoredRow]:
        """See `OutboxStore.rows`."""
        async for page in self._pages("", {}, _MAX_PAGE):
            for row in page:
                yield row

    async def _pages(self, query: str, parameters: Mapping[str, Any], size: int) -> AsyncIterator[list[StoredRow]]:
        """Yield the documents by pages. A page may be empty, as the service scans a limited number of rows."""
        with self._table.errors_translated():
            await self._table.within_deadline(self._table.ensure_exists)
            pages = self._table.pages(
                query_filter=query, parameters=parameters, results_per_page=max(1, min(size, _MAX_PAGE))
            )
            async for page in pages:
                yield [_row_of(entity) for entity in page]

    async def purge(self, now: datetime, limit: int) -> int:
        """See `OutboxStore.purge`."""
        purged = 0
        async for page in self._pages("expires le @now", {"now": now}, limit):
            for row in page:
                purged += await self.delete(row.key, row.version)
            if purged >= limit:
                break
        return purged

    async def close(self) -> None:
        """See `OutboxStore.close`."""
        await self._table.close()


def _entity_key(key: str) -> tuple[str, str]:
    return key[:_PARTITION_DIGITS], key


def _entity(row: Row) -> TableEntity:
    partition, key = _entity_key(row.key)
    entity = TableEntity(
        PartitionKey=partition,
        RowKey=key,
        sink=row.sink,
        expires=row.expires,
        document=zlib.compress(row.document),
    )
    if row.due is not None:
        entity["due"] = row.due
    return entity


def _row_of(entity: TableEntity) -> StoredRow:
    return StoredRow(str(entity["RowKey"]), zlib.decompress(entity["document"]), str(entity.metadata["etag"]))
