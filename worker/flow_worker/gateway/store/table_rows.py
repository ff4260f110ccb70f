"""Reads and writes the entities of the gateway's table, each call within the deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.data.tables import TableEntity, UpdateMode

from flow_worker.gateway.store.port import ResultTooLarge
from flow_worker.journal.shared_table import SharedTable, TableKind, is_too_large

KIND = TableKind(
    name="gateway store's table",
    process="gateway",
    settings="gateway.store.",
    code="unavailable",
    unreachable_event="gateway_store.unreachable",
)


class Rows:
    """The entities of one table. Every method raises `TemporarilyUnavailable`."""

    def __init__(self, table: SharedTable) -> None:
        self._table = table
        self._client = table.client

    async def insert(self, entity: TableEntity) -> bool:
        """Return False, and write nothing, if there is an entity with these keys. Raises `ResultTooLarge`."""

        async def insert() -> bool:
            try:
                await self._client.create_entity(entity)
            except ResourceExistsError:
                return False
            return True

        return bool(await self._call(insert))

    async def upsert(self, entity: TableEntity) -> None:
        """Write the entity in place of one with the same keys, or as a new one. Raises `ResultTooLarge`."""
        await self._call(lambda: self._client.upsert_entity(entity, UpdateMode.REPLACE))

    async def read(self, partition: str, row: str, select: Sequence[str] = ()) -> TableEntity | None:
        """Return the entity, or the selected properties of it; None if there is none."""

        async def read() -> TableEntity | None:
            try:
                return await self._client.get_entity(partition, row, select=list(select) or None)
            except ResourceNotFoundError as error:
                self._table.raise_if_table_is_missing(error)
                return None

        found: TableEntity | None = await self._call(read)
        return found

    async def change(self, entity: TableEntity, version: str | None, mode: UpdateMode = UpdateMode.MERGE) -> bool:
        """Change the entity if it has this version; None: any version. Return whether it had. Raises `ResultTooLarge`.

        `MERGE` keeps the properties that the new entity does not name.
        """
        condition: dict[str, Any] = {} if version is None else _unless_changed(version)

        async def change() -> bool:
            try:
                await self._client.update_entity(entity, mode, **condition)
            except ResourceModifiedError:
                return False
            except ResourceNotFoundError as error:
                self._table.raise_if_table_is_missing(error)
                return False
            return True

        return bool(await self._call(change))

    async def delete(self, entity: TableEntity, *, unless_changed: bool = False) -> bool:
        """Delete the entity, also if it is gone already. With `unless_changed`, return False if it has changed."""
        condition = _unless_changed(entity.metadata["etag"]) if unless_changed else {}

        async def delete() -> bool:
            try:
                await self._client.delete_entity(entity, **condition)
            except ResourceModifiedError:
                return False
            return True

        return bool(await self._call(delete))

    async def find(self, query_filter: str, parameters: dict[str, Any], select: Sequence[str]) -> AsyncIterator[Any]:
        """Yield the entities of a query, in the order of their keys."""
        await self._table.ensure_exists()
        with self._table.errors_translated():
            pages = self._table.pages(query_filter=query_filter, parameters=parameters, select=list(select))
            async for page in pages:
                for entity in page:
                    yield entity

    async def reach(self) -> None:
        """Return once the service has answered, so that its time is known."""
        await self._table.ensure_exists()

    async def _call(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self._table.ensure_exists()
        with self._table.errors_translated():
            try:
                return await self._table.within_deadline(work)
            except HttpResponseError as error:
                if isinstance(error, ResourceNotFoundError):
                    self._table.raise_if_table_is_missing(error)
                if is_too_large(error):
                    raise ResultTooLarge from None
                raise


def _unless_changed(version: str | None) -> dict[str, Any]:
    return {"etag": version, "match_condition": MatchConditions.IfNotModified}
