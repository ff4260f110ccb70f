"""The tables of the gateway's SQLite store, and the conversion of their rows."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

from flow_worker.gateway.store.port import PrincipalId, RequestRecord, RequestState, StateName, StoredRequest
from flow_worker.journal.kind import FileKind

# Times are whole microseconds since 1970. The IDs of a request are random, so a table without row IDs keeps one tree.
# `change` never uses a number again: it numbers the changes of all processes in the order of their commits.
_SCHEMA = """
CREATE TABLE request (
    id TEXT PRIMARY KEY,
    owner_tenant TEXT NOT NULL,
    owner_oid TEXT NOT NULL,
    asserter_tenant TEXT,
    asserter_oid TEXT,
    flow TEXT NOT NULL,
    digest TEXT NOT NULL,
    created INTEGER NOT NULL,
    trace_parent TEXT,
    sent INTEGER NOT NULL,
    state TEXT,
    state_at INTEGER,
    state_until INTEGER,
    state_code TEXT,
    attempts INTEGER,
    result_at INTEGER,
    result_bytes INTEGER,
    standing INTEGER,
    is_gone INTEGER NOT NULL DEFAULT 0,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX request_expires ON request (expires);
CREATE TABLE result (id TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE change (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, at INTEGER NOT NULL);
CREATE TABLE probe (id INTEGER PRIMARY KEY, at INTEGER NOT NULL);
"""


def gateway_file(setting: str) -> FileKind:
    """Return the kind of the store's file, which `setting` names."""
    return FileKind(
        schema=_SCHEMA,
        schema_version=1,
        name="gateway store",
        table="request",
        process="gateway",
        setting=setting,
        code="unavailable",
        if_new="knows no earlier request: their owners get 404",
        if_replaced=(
            "stop all gateways of this store, put the file back if you can, and start them again. Without the file, "
            "the owners of earlier requests get 404"
        ),
        created_event="gateway_store.created",
        exposed_event="gateway_store.exposed",
        replaced_event="gateway_store.replaced",
        checkpoint_event="gateway_store.checkpoint_failed",
        unreachable_event="gateway_store.unreachable",
    )


_RECORD = "id, owner_tenant, owner_oid, asserter_tenant, asserter_oid, flow, digest, created, trace_parent, sent"
_STATE = "state, state_at, state_until, state_code, attempts"
# A large result is read in a thread, and none for a reader who may not read it.
_IS_SMALL = "result_bytes <= 262144 AND (:reader IS NULL OR :reader IN (owner_oid, asserter_oid))"
_BODY = f"CASE WHEN {_IS_SMALL} THEN (SELECT body FROM result WHERE result.id = request.id) END"  # noqa: S608
SELECT = f"SELECT {_RECORD}, {_STATE}, result_at, result_bytes, is_gone, {_BODY} FROM request WHERE id = :id"  # noqa: S608
INSERT = f"INSERT INTO request ({_RECORD}, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"  # noqa: S608

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(at: datetime) -> int:
    """Return the time as the file holds it."""
    return (at - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Return a time of the file."""
    return _EPOCH + timedelta(microseconds=microseconds)


def values_of(record: RequestRecord, expires: datetime) -> tuple[Any, ...]:
    """Return the values of `INSERT`."""
    owner, asserter = record.owner, record.asserter
    return (
        record.id,
        owner.tenant,
        owner.oid,
        None if asserter is None else asserter.tenant,
        None if asserter is None else asserter.oid,
        record.flow,
        record.digest,
        to_microseconds(record.created_at),
        record.trace_parent,
        record.sent,
        to_microseconds(expires),
    )


class Row:
    """A row of `SELECT`."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self._values = values
        self.result_at: datetime | None = None if values[15] is None else from_microseconds(values[15])
        self.body: bytes | None = values[18]

    def request(self) -> StoredRequest:
        """Return the request, without its result."""
        return StoredRequest(self.record(), self._state(), is_gone=bool(self._values[17]))

    def record(self) -> RequestRecord:
        """Return the record."""
        request_id, tenant, oid, asserter_tenant, asserter_oid, flow, digest, created, trace_parent, sent = (
            self._values[:10]
        )
        return RequestRecord(
            request_id,
            PrincipalId(tenant, oid),
            None if asserter_oid is None else PrincipalId(asserter_tenant, asserter_oid),
            flow,
            digest,
            from_microseconds(created),
            trace_parent,
            bool(sent),
        )

    def _state(self) -> RequestState:
        state, at, until, code, attempts = self._values[10:15]
        if state is None:
            return RequestState(StateName.QUEUED, from_microseconds(self._values[7]))
        until_at = None if until is None else from_microseconds(until)
        return RequestState(StateName(state), from_microseconds(at), until_at, code, attempts)


def select(connection: sqlite3.Connection, request_id: str, reader: PrincipalId | None = None) -> Row | None:
    """Return the row of a request; without its result for a reader who may not read it."""
    values = connection.execute(SELECT, {"id": request_id, "reader": reader and reader.oid}).fetchone()
    return None if values is None else Row(values)
