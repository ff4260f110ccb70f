"""Keeps the gateway's requests in Azure Table Storage, for gateways on any number of machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

from azure.data.tables import TableEntity, UpdateMode

from flow_worker import clock
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store.marks import SentMarks
from flow_worker.gateway.store.port import (
    MAX_ID_CHARACTERS,
    Changes,
    Cursor,
    PrincipalId,
    PutResult,
    RequestRecord,
    RequestState,
    Retention,
    Standing,
    StoredRequest,
    StoredResult,
    stands_instead,
)
from flow_worker.gateway.store.table_changes import TableChanges
from flow_worker.gateway.store.table_entities import (
    REQUEST,
    RESULT_PROPERTIES,
    STATE_PROPERTIES,
    Parts,
    body_of,
    entity_of,
    partition_of,
    parts_of,
    record_of,
    request_of,
    state_of,
    state_text,
    tombstone_of,
)
from flow_worker.gateway.store.table_rows import KIND, Rows
from flow_worker.journal.shared_table import SharedTable

_LARGE_BYTES = 256 * 1024
"""Compressing a result of this size takes some milliseconds. A thread compresses larger ones."""
_MAX_ATTEMPTS = 8
"""Attempts to change an entity that other replicas change at the same time."""
_MAX_CONCURRENT = 16
_MARKS_AT_A_TIME = 8
_PROBE = "p"
_PROBE_KEPT = timedelta(hours=1)


class TableGatewayStore:
    """A `GatewayStore` in one table."""

    feed_seconds = 0.2

    def __init__(self, table: SharedTable, retention: Retention, *, now: Callable[[], datetime] = clock.now) -> None:
        self._table = table
        self._rows = Rows(table)
        self._changes = TableChanges(self._rows, table.clock)
        self._marks = SentMarks(self._write_marks, step=_MARKS_AT_A_TIME)
        self._retention = retention
        self._now = now

    @classmethod
    async def by_identity(
        cls,
        endpoint: str,
        table: str,
        retention: Retention,
        *,
        client_id: str | None,
        call_seconds: float,
        now: Callable[[], datetime] = clock.now,
    ) -> Self:
        """Open the table with the managed identity; see `SharedTable.by_identity`. Raises `InvalidSettings`."""
        opened = await SharedTable.by_identity(endpoint, table, KIND, client_id=client_id, call_seconds=call_seconds)
        return cls(opened, retention, now=now)

    @classmethod
    async def by_connection_string(
        cls,
        connection_string: str,
        table: str,
        retention: Retention,
        *,
        call_seconds: float,
        now: Callable[[], datetime] = clock.now,
    ) -> Self:
        """Open the table with a key; see `SharedTable.by_connection_string`. Raises `InvalidSettings`."""
        opened = await SharedTable.by_connection_string(connection_string, table, KIND, call_seconds=call_seconds)
        return cls(opened, retention, now=now)

    async def add(self, record: RequestRecord) -> RequestRecord | None:
        """See `GatewayStore.add`."""
        entity = entity_of(record, record.created_at + self._retention.pending)
        if await self._rows.insert(entity):
            return None
        found = await self._rows.read(partition_of(record.id), REQUEST)
        if found is None:  # purged since then
            return await self.add(record)
        return record_of(found)

    async def mark_sent(self, request_id: str) -> None:
        """See `GatewayStore.mark_sent`. It returns at once: the result may come first, and makes the mark needless."""
        self._marks.add(request_id)

    async def _write_marks(self, request_ids: Sequence[str]) -> None:
        writing = (self._rows.change(_changed(one, sent=True), None) for one in request_ids)
        for result in await asyncio.gather(*writing, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def get(self, request_id: str, *, reader: PrincipalId | None = None) -> StoredRequest | None:
        """See `GatewayStore.get`."""
        if len(request_id) > MAX_ID_CHARACTERS:
            return None
        for _ in range(_MAX_ATTEMPTS):
            entity = await self._rows.read(partition_of(request_id), REQUEST)
            if entity is None:
                return None
            request = request_of(entity)
            is_hidden = reader is not None and not request.record.may_read(reader)
            if request.is_gone or is_hidden or "result_at" not in entity:
                return request
            body = await self._body(entity)
            if body is not None:
                result = StoredResult(body, datetime.fromisoformat(entity["result_at"]))
                return StoredRequest(request.record, request.state, result)
        raise _contended()

    async def _body(self, entity: TableEntity) -> bytes | None:
        """Return the result; None if it was purged or replaced since the entity was read."""
        entities = [entity]
        for row in _rows_of(entity["generation"], entity["rows"]):
            beside = await self._rows.read(entity["PartitionKey"], row)
            if beside is None:
                return None
            entities.append(beside)
        if len(entities) > 1:
            return await asyncio.to_thread(body_of, entities, entity["parts"])
        return body_of(entities, entity["parts"])

    async def put_state(self, request_id: str, state: RequestState) -> bool:
        """See `GatewayStore.put_state`."""
        for _ in range(_MAX_ATTEMPTS):
            entity = await self._rows.read(partition_of(request_id), REQUEST, STATE_PROPERTIES)
            if entity is None or entity.get("result_at") is not None:
                return False
            stored = state_of(entity)
            if stored is not None and stored.at >= state.at:
                return False
            if await self._rows.change(_changed(request_id, state=state_text(state)), entity.metadata["etag"]):
                await self._changes.announce(request_id)
                return True
        raise _contended()

    async def put_result(
        self, request_id: str, result: StoredResult, *, standing: Standing = Standing.FIRST
    ) -> PutResult:
        """See `GatewayStore.put_result`."""
        rows: list[Parts] | None = None
        generation = f"{result.at.timestamp():.6f}-{standing.value}"
        for _ in range(_MAX_ATTEMPTS):
            entity = await self._rows.read(partition_of(request_id), REQUEST, RESULT_PROPERTIES)
            if entity is None:
                return PutResult.UNKNOWN
            if not _stands_instead(result.at, standing, entity):
                # Announced again: the replica that stored it may have been killed before its announcement.
                await self._changes.announce(request_id)
                return PutResult.DUPLICATE
            if rows is None:
                rows = await self._write_beside(request_id, result.body, generation)
            if await self._rows.change(
                self._concluded(request_id, result.at, standing, generation, rows), entity.metadata["etag"]
            ):
                self._marks.discard(request_id)
                await self._changes.announce(request_id)
                return PutResult.STORED
        raise _contended()

    async def _write_beside(self, request_id: str, body: bytes, generation: str) -> list[Parts]:
        """Write all rows of the result but the first, which goes into the entity of the request; return all."""
        rows = await asyncio.to_thread(parts_of, body) if len(body) > _LARGE_BYTES else parts_of(body)
        for row, parts in zip(_rows_of(generation, len(rows)), rows[1:], strict=True):
            await self._rows.upsert(TableEntity(PartitionKey=partition_of(request_id), RowKey=row, **parts))
        return rows

    def _concluded(
        self, request_id: str, at: datetime, standing: Standing, generation: str, rows: list[Parts]
    ) -> TableEntity:
        return _changed(
            request_id,
            result_at=at.isoformat(),
            standing=standing.value,
            is_gone=False,
            sent=True,
            expires=self._now() + self._retention.results,
            generation=generation,
            rows=len(rows),
            parts=sum(len(parts) for parts in rows),
            **rows[0],
        )

    async def changes(self, cursor: Cursor) -> Changes:
        """See `GatewayStore.changes`."""
        return await self._changes.read(cursor)

    async def sync(self) -> None:
        """See `GatewayStore.sync`. Azure persists every write that it accepts."""

    async def purge(self, now: datetime) -> int:
        """See `GatewayStore.purge`. It reads the whole table, as the service has no index of the expiry."""
        purged = 0
        batch: list[TableEntity] = []
        # Without the parts of the result: they are the larger part of an entity.
        async for entity in self._rows.find("expires le @now", {"now": now}, _WITHOUT_PARTS):
            batch.append(entity)
            if len(batch) == _MAX_CONCURRENT:
                purged += sum(await asyncio.gather(*(self._purge(each, now) for each in batch)))
                batch.clear()
        return purged + sum(await asyncio.gather(*(self._purge(each, now) for each in batch)))

    async def _purge(self, entity: TableEntity, now: datetime) -> int:
        """Purge one expired entity; return 1 if it was a request."""
        if entity["RowKey"] != REQUEST:
            await self._rows.delete(entity)
            return 0
        if entity.get("result_at") is not None and not entity.get("is_gone"):
            tombstone = tombstone_of(entity, entity["expires"] + self._retention.results)
            if not await self._rows.change(tombstone, entity.metadata["etag"], UpdateMode.REPLACE):
                return 0  # another replica was faster, or a replay has replaced the result
            await self._purge_beside(entity)
            return 1
        await self._purge_beside(entity)
        return int(await self._rows.delete(entity, unless_changed=True))

    async def _purge_beside(self, entity: TableEntity) -> None:
        """Delete the rows beside the request's, also those that an interrupted write has left."""
        query = ("PartitionKey eq @partition", {"partition": entity["PartitionKey"]}, ("PartitionKey", "RowKey"))
        async for beside in self._rows.find(*query):
            if beside["RowKey"] != REQUEST:
                await self._rows.delete(beside)

    async def check(self) -> None:
        """See `GatewayStore.check`."""
        await self._rows.upsert(TableEntity(PartitionKey=_PROBE, RowKey=_PROBE, expires=self._now() + _PROBE_KEPT))

    async def aclose(self) -> None:
        """See `GatewayStore.aclose`."""
        await self._marks.aclose()
        await self._changes.aclose()
        await self._table.close()


_WITHOUT_PARTS = (
    *("PartitionKey", "RowKey", "id", "owner_tenant", "owner_oid", "asserter_tenant", "asserter_oid", "flow", "digest"),
    *("created", "trace_parent", "sent", "expires", "result_at", "standing", "is_gone"),
)


def _changed(request_id: str, **properties: Any) -> TableEntity:
    return TableEntity(PartitionKey=partition_of(request_id), RowKey=REQUEST, **properties)


def _rows_of(generation: str, count: int) -> list[str]:
    return [f"result-{generation}-{number:04}" for number in range(1, count)]


def _stands_instead(at: datetime, standing: Standing, entity: TableEntity) -> bool:
    """Return whether a result stands instead of the one of the entity; also if that has none."""
    stored = entity.get("result_at")
    if stored is None:
        return True
    return stands_instead(standing, at, Standing(entity["standing"]), datetime.fromisoformat(stored))


def _contended() -> TemporarilyUnavailable:
    return TemporarilyUnavailable("unavailable", "other gateways kept changing the same request of the store's table")
