"""Announces changes in the gateway's table, and reads the announcements of all replicas.

An announcement is an entity with the IDs of several requests. Its row key begins with the time of the service. Replicas
read by that key, a little into the past: an announcement appears later than its time, and clocks differ a little.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime, timedelta

from azure.data.tables import TableEntity

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store.port import NOW, Changes, Cursor
from flow_worker.gateway.store.table_rows import Rows
from flow_worker.journal.shared_table import ServiceClock

KEPT = timedelta(minutes=10)
"""A replica reads the announcements several times a second while it has waiters."""
_OVERLAP = timedelta(seconds=5)
"""A reader goes back by this time: the errors of two clocks, about a second each, and `_MAX_WRITE_SECONDS`."""
_MAX_WRITE_SECONDS = 2.5
"""An announcement whose write took longer is written again, under a new time: readers may have passed the old one."""
_MAX_IDS = 400
"""IDs of one announcement: a text property holds 32,768 characters, and an ID has up to 128 characters with JSON's."""
_FIRST, _END = "c", "d"
"""The partitions of announcements have keys between these two."""
_SEPARATOR = "\n"


class TableChanges:
    """The announcements of one table, for one feed."""

    def __init__(self, rows: Rows, clock: ServiceClock) -> None:
        self._rows = rows
        self._clock = clock
        self._replica = secrets.token_hex(6)
        self._count = 0
        self._pending: dict[str, asyncio.Future[None]] = {}
        self._announcing: asyncio.Task[None] | None = None
        self._seen: dict[str, datetime] = {}

    # --- writing -------------------------------------------------------------------------------------------------

    async def announce(self, request_id: str) -> None:
        """Return once the announcement is written. Requests that change during a write share the next one."""
        announced = self._pending.get(request_id)
        if announced is None:
            announced = self._pending[request_id] = asyncio.get_running_loop().create_future()
        if self._announcing is None or self._announcing.done():
            self._announcing = asyncio.create_task(self._announce(), name="announce changes")
        await asyncio.shield(announced)

    async def _announce(self) -> None:
        while self._pending:
            batch = dict(list(self._pending.items())[:_MAX_IDS])
            for request_id in batch:
                del self._pending[request_id]
            error: BaseException | None = None
            try:
                await self._write(list(batch))
            except TemporarilyUnavailable as failure:
                error = failure
            except BaseException as failure:
                error = TemporarilyUnavailable("unavailable", "the announcement of a change was interrupted")
                error.__cause__ = failure
                raise
            finally:
                _end(batch, error)

    async def _write(self, request_ids: list[str]) -> None:
        took = float("inf")
        while took > _MAX_WRITE_SECONDS:
            began = time.monotonic()
            now = self._clock.now()
            self._count += 1
            await self._rows.insert(
                TableEntity(
                    PartitionKey=_partition(now),
                    RowKey=f"{_key(now)}-{self._replica}-{self._count}",
                    ids=_SEPARATOR.join(request_ids),
                    expires=now + KEPT,
                )
            )
            took = time.monotonic() - began

    # --- reading -------------------------------------------------------------------------------------------------

    async def read(self, cursor: Cursor) -> Changes:
        """See `GatewayStore.changes`. The cursor is the service's time of the last successful read."""
        if cursor == NOW:
            await self._rows.reach()
            self._seen.clear()
            return Changes(frozenset(), Cursor(self._clock.now().isoformat()))
        now = self._clock.now()
        # After a long outage, the older announcements are deleted.
        since = max(datetime.fromisoformat(cursor) - _OVERLAP, now - KEPT)
        request_ids: set[str] = set()
        found = self._rows.find(
            "PartitionKey ge @first and PartitionKey lt @end and RowKey ge @since",
            {"first": _partition(since), "end": _END, "since": _key(since)},
            ("RowKey", "ids"),
        )
        async for entity in found:
            if entity["RowKey"] not in self._seen:
                self._seen[entity["RowKey"]] = now
                request_ids.update(entity["ids"].split(_SEPARATOR))
        self._forget(now)
        return Changes(frozenset(request_ids), Cursor(now.isoformat()))

    def _forget(self, now: datetime) -> None:
        """Forget what no later read finds again."""
        before = now - 3 * _OVERLAP
        while self._seen and (oldest := next(iter(self._seen.items())))[1] < before:
            del self._seen[oldest[0]]

    async def aclose(self) -> None:
        """Wait for the announcements under way."""
        if self._announcing is not None:
            await asyncio.wait([self._announcing])


def _end(batch: dict[str, asyncio.Future[None]], error: BaseException | None) -> None:
    for announced in batch.values():
        if error is None:
            announced.set_result(None)
        else:
            announced.set_exception(error)
            announced.exception()  # the callers may be gone; nobody needs to hear of it then


def _partition(at: datetime) -> str:
    return f"{_FIRST}{int(at.timestamp()) // 60:010d}"


def _key(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f")
