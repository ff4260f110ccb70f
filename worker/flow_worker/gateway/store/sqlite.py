"""Keeps the gateway's requests in an SQLite file, for all gateways of one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

from flow_worker import clock
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store.marks import SentMarks
from flow_worker.gateway.store.port import (
    MAX_ID_CHARACTERS,
    NOW,
    Changes,
    Cursor,
    PrincipalId,
    PutResult,
    RequestRecord,
    RequestState,
    ResultTooLarge,
    Retention,
    Standing,
    StoredRequest,
    StoredResult,
    stands_instead,
)
from flow_worker.gateway.store.sqlite_schema import INSERT, Row, gateway_file, select, to_microseconds, values_of
from flow_worker.journal.sqlite_errors import is_full
from flow_worker.journal.sqlite_file import SqliteFile, SqliteLimits
from flow_worker.journal.transactions import Cost

_LARGE_BYTES = 256 * 1024
"""Reading or writing a result of this size takes a millisecond. A separate thread handles larger ones."""
_ROW_BYTES = 40 * 1024
"""The log's growth by a change of a request: the pages of its row, of the index, of the change and of the counter."""
_MARK_BYTES = 8 * 1024
_MARKS_AT_A_TIME = 100
"""A transaction of so many takes a millisecond of the loop."""
_PURGED_BYTES = 8 * 1024
_PURGE_STEP = 200
"""Rows of one transaction of a purge: so many take some milliseconds, in a thread."""
_SMALL_STEP = 20
"""The same on a full disk, where the log has little room."""
_MAX_CHANGES = 1000
_CHANGES_KEPT = timedelta(minutes=10)
"""A replica reads the changes several times a second while it has waiters."""


class SqliteGatewayStore:
    """A `GatewayStore` in one file, which several processes of one machine share."""

    feed_seconds = 0.02

    def __init__(
        self, file: SqliteFile, limits: SqliteLimits, retention: Retention, *, now: Callable[[], datetime] = clock.now
    ) -> None:
        self._file = file
        self._limits = limits
        self._retention = retention
        self._now = now
        self._marks = SentMarks(self._write_marks, step=_MARKS_AT_A_TIME)
        self._is_behind = False
        """There may be changes that `changes` has not returned."""

    @classmethod
    async def open(
        cls,
        path: Path,
        limits: SqliteLimits,
        retention: Retention,
        *,
        setting: str,
        now: Callable[[], datetime] = clock.now,
    ) -> Self:
        """Create or open the file, which `setting` names; see `SqliteFile.open`. Raises `InvalidSettings`."""
        return cls(await SqliteFile.open(path, limits, gateway_file(setting)), limits, retention, now=now)

    async def add(self, record: RequestRecord) -> RequestRecord | None:
        """See `GatewayStore.add`."""
        values = values_of(record, record.created_at + self._retention.pending)
        if await self._file.run(partial(_insert, values=values), Cost(_ROW_BYTES, is_new=True)):
            return None
        row: Row | None = await self._file.read(partial(select, request_id=record.id))
        if row is None:  # purged since then
            return await self.add(record)
        return replace(row.record(), sent=True) if record.id in self._marks else row.record()

    async def mark_sent(self, request_id: str) -> None:
        """See `GatewayStore.mark_sent`. Most results come before the mark is written, and make it needless."""
        self._marks.add(request_id)

    async def _write_marks(self, request_ids: Sequence[str]) -> None:
        await self._file.run(partial(_mark_sent, request_ids=request_ids), Cost(_MARK_BYTES * len(request_ids)))

    async def get(self, request_id: str, *, reader: PrincipalId | None = None) -> StoredRequest | None:
        """See `GatewayStore.get`."""
        if len(request_id) > MAX_ID_CHARACTERS or not request_id.isprintable():
            return None
        row: Row | None = await self._file.read(partial(select, request_id=request_id, reader=reader))
        if row is None:
            return None
        request = row.request()
        is_hidden = reader is not None and not request.record.may_read(reader)
        if row.result_at is None or request.is_gone or is_hidden:
            return request
        body = row.body
        if body is None:  # a large one
            body = await self._file.run(partial(_body, request_id=request_id), Cost(slow=True))
        if body is None:  # purged since the row was read
            return StoredRequest(request.record, request.state, is_gone=True)
        return StoredRequest(request.record, request.state, StoredResult(body, row.result_at))

    async def put_state(self, request_id: str, state: RequestState) -> bool:
        """See `GatewayStore.put_state`."""
        put = partial(_put_state, request_id=request_id, state=state, now=to_microseconds(self._now()))
        stored: bool = await self._file.run(put, Cost(_ROW_BYTES))
        return stored

    async def put_result(
        self, request_id: str, result: StoredResult, *, standing: Standing = Standing.FIRST
    ) -> PutResult:
        """See `GatewayStore.put_result`."""
        size = len(result.body)
        if size > self._limits.max_document_bytes:
            raise ResultTooLarge
        now = self._now()
        put = partial(
            _put_result,
            request_id=request_id,
            result=result,
            standing=standing,
            now=to_microseconds(now),
            expires=to_microseconds(now + self._retention.results),
        )
        cost = Cost(_ROW_BYTES + size * 101 // 100, slow=size > _LARGE_BYTES)
        stored: PutResult = await self._file.run(put, cost)
        self._marks.discard(request_id)
        return stored

    async def changes(self, cursor: Cursor) -> Changes:
        """See `GatewayStore.changes`. Without a commit since the last call it costs a few microseconds."""
        if cursor == NOW:
            await self._file.has_changed()
            number: int = await self._file.read(_last_change)
            return Changes(frozenset(), Cursor(str(number)))
        self._is_behind = await self._file.has_changed() or self._is_behind
        if not self._is_behind:
            return Changes(frozenset(), cursor)
        rows: list[tuple[int, str]] = await self._file.read(partial(_changes, after=int(cursor)))
        self._is_behind = len(rows) == _MAX_CHANGES
        if rows:
            cursor = Cursor(str(rows[-1][0]))
        return Changes(frozenset(request_id for _, request_id in rows), cursor, has_more=self._is_behind)

    async def sync(self) -> None:
        """See `GatewayStore.sync`. One flush serves all callers that wait for the disk at the same time."""
        await self._file.run(_nothing, Cost(durable=True))

    async def purge(self, now: datetime) -> int:
        """See `GatewayStore.purge`. On a full disk it works in small steps, whose log may still find room."""
        try:
            return await self._purge(now, _PURGE_STEP)
        except TemporarilyUnavailable as error:
            if error.__cause__ is None or not is_full(error.__cause__):
                raise
        return await self._purge(now, _SMALL_STEP)

    async def _purge(self, now: datetime, step: int) -> int:
        purged = 0
        cost = Cost(min(step * _PURGED_BYTES, self._limits.max_document_bytes), slow=True)
        kept = self._retention.results // timedelta(microseconds=1)
        until = to_microseconds(now)
        for operation in (partial(_purge_results, now=until, kept=kept), partial(_purge_requests, now=until)):
            purged += await self._repeat(operation, step, cost)
        await self._repeat(partial(_purge_changes, before=to_microseconds(now - _CHANGES_KEPT)), step, cost)
        return purged

    async def _repeat(self, operation: Callable[..., int], step: int, cost: Cost) -> int:
        """Repeat the operation until it finds less than a step; return how many rows it found."""
        total = count = await self._file.run(partial(operation, limit=step), cost)
        while count >= step:
            total += (count := await self._file.run(partial(operation, limit=step), cost))
        return int(total)

    async def check(self) -> None:
        """See `GatewayStore.check`."""
        cost = Cost(_ROW_BYTES, durable=True, is_new=True)
        await self._file.run(partial(_probe, at=to_microseconds(self._now())), cost)

    async def aclose(self) -> None:
        """See `GatewayStore.aclose`."""
        await self._marks.aclose()
        await self._file.close()

    @property
    def log_bytes(self) -> int | None:
        """The bytes of the write-ahead log in use; None while the file is not open."""
        return self._file.log_bytes


def _insert(connection: sqlite3.Connection, values: tuple[object, ...]) -> bool | None:
    """Return None if the request is there already: `Transactions` counts only other values as a new request."""
    return connection.execute(INSERT, values).rowcount == 1 or None


def _mark_sent(connection: sqlite3.Connection, request_ids: Sequence[str]) -> None:
    rows = [(request_id,) for request_id in request_ids]
    connection.executemany("UPDATE request SET sent = 1 WHERE id = ? AND sent = 0", rows)


def _body(connection: sqlite3.Connection, request_id: str) -> bytes | None:
    row = connection.execute("SELECT body FROM result WHERE id = ?", (request_id,)).fetchone()
    return None if row is None else bytes(row[0])


def _put_state(connection: sqlite3.Connection, request_id: str, state: RequestState, now: int) -> bool:
    at, until = to_microseconds(state.at), None if state.until is None else to_microseconds(state.until)
    updated = connection.execute(
        "UPDATE request SET state = ?, state_at = ?, state_until = ?, state_code = ?, attempts = ? "
        "WHERE id = ? AND result_at IS NULL AND (state_at IS NULL OR state_at < ?)",
        (state.state.value, at, until, state.code, state.attempts, request_id, at),
    )
    if updated.rowcount != 1:
        return False
    _note_change(connection, request_id, now)
    return True


def _put_result(
    connection: sqlite3.Connection, request_id: str, result: StoredResult, *, standing: Standing, now: int, expires: int
) -> PutResult:
    row = connection.execute("SELECT result_at, standing FROM request WHERE id = ?", (request_id,)).fetchone()
    if row is None:
        return PutResult.UNKNOWN
    at = to_microseconds(result.at)
    if row[0] is not None and not stands_instead(standing, at, Standing(row[1]), row[0]):
        return PutResult.DUPLICATE
    connection.execute("INSERT OR REPLACE INTO result (id, body) VALUES (?, ?)", (request_id, result.body))
    connection.execute(
        "UPDATE request SET result_at = ?, result_bytes = ?, standing = ?, is_gone = 0, sent = 1, expires = ? "
        "WHERE id = ?",
        (at, len(result.body), standing, expires, request_id),
    )
    _note_change(connection, request_id, now)
    return PutResult.STORED


def _note_change(connection: sqlite3.Connection, request_id: str, now: int) -> None:
    connection.execute("INSERT INTO change (id, at) VALUES (?, ?)", (request_id, now))


def _last_change(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'change'").fetchone()
    return 0 if row is None else int(row[0])


def _changes(connection: sqlite3.Connection, after: int) -> list[tuple[int, str]]:
    statement = "SELECT number, id FROM change WHERE number > ? ORDER BY number LIMIT ?"
    return connection.execute(statement, (after, _MAX_CHANGES)).fetchall()


def _nothing(connection: sqlite3.Connection) -> bool:
    return True


def _probe(connection: sqlite3.Connection, at: int) -> bool:
    connection.execute("INSERT OR REPLACE INTO probe (id, at) VALUES (1, ?)", (at,))
    return True


def _purge_results(connection: sqlite3.Connection, now: int, kept: int, limit: int) -> int:
    """Delete results, and keep their rows for as long again."""
    statement = "SELECT id FROM request WHERE expires <= ? AND result_at IS NOT NULL AND is_gone = 0 LIMIT ?"
    rows = connection.execute(statement, (now, limit)).fetchall()
    connection.executemany("DELETE FROM result WHERE id = ?", rows)
    connection.executemany(
        "UPDATE request SET is_gone = 1, expires = expires + ? WHERE id = ?", [(kept, row[0]) for row in rows]
    )
    return len(rows)


def _purge_requests(connection: sqlite3.Connection, now: int, limit: int) -> int:
    statement = (
        "DELETE FROM request WHERE id IN "
        "(SELECT id FROM request WHERE expires <= ? AND (is_gone = 1 OR result_at IS NULL) LIMIT ?)"
    )
    return connection.execute(statement, (now, limit)).rowcount


def _purge_changes(connection: sqlite3.Connection, before: int, limit: int) -> int:
    statement = "DELETE FROM change WHERE number IN (SELECT number FROM change ORDER BY number LIMIT ?) AND at < ?"
    return connection.execute(statement, (limit, before)).rowcount
