"""The entities of the gateway's table: a request with its state, and its result in parts."""

from __future__ import annotations

import hashlib
import json
import zlib
from datetime import datetime
from typing import Any

from azure.data.tables import TableEntity

from flow_worker.gateway.store.port import (
    PrincipalId,
    RequestRecord,
    RequestState,
    StateName,
    StoredRequest,
)
from flow_worker.journal.shared_table import MAX_PARTS, PART_BYTES

REQUEST = "request"
"""The row key of a request in its partition. The rows of a large result stand beside it."""
STATE_PROPERTIES = ("state", "result_at")
RESULT_PROPERTIES = ("result_at", "standing", "is_gone")


def partition_of(request_id: str) -> str:
    """Return the partition of a request: a hash, because keys may not hold every character."""
    return "r" + hashlib.sha256(request_id.encode(errors="surrogatepass")).hexdigest()


def entity_of(record: RequestRecord, expires: datetime) -> TableEntity:
    """Return the entity of a new request."""
    asserter = record.asserter
    properties: dict[str, Any] = {
        "id": record.id,
        "owner_tenant": record.owner.tenant,
        "owner_oid": record.owner.oid,
        "flow": record.flow,
        "digest": record.digest,
        "created": record.created_at.isoformat(),
        "sent": record.sent,
        "expires": expires,
    }
    if asserter is not None:
        properties |= {"asserter_tenant": asserter.tenant, "asserter_oid": asserter.oid}
    if record.trace_parent is not None:
        properties["trace_parent"] = record.trace_parent
    return TableEntity(PartitionKey=partition_of(record.id), RowKey=REQUEST, **properties)


def tombstone_of(entity: TableEntity, expires: datetime) -> TableEntity:
    """Return the entity that remains of a request after the retention of its result."""
    kept = entity_of(record_of(entity), expires)
    kept |= {name: entity[name] for name in ("result_at", "standing")}
    kept["is_gone"] = True
    return kept


def record_of(entity: TableEntity) -> RequestRecord:
    """Return the record of an entity."""
    oid = entity.get("asserter_oid")
    return RequestRecord(
        entity["id"],
        PrincipalId(entity["owner_tenant"], entity["owner_oid"]),
        None if oid is None else PrincipalId(entity["asserter_tenant"], oid),
        entity["flow"],
        entity["digest"],
        datetime.fromisoformat(entity["created"]),
        entity.get("trace_parent"),
        entity["sent"],
    )


def request_of(entity: TableEntity) -> StoredRequest:
    """Return the request of an entity, without its result."""
    record = record_of(entity)
    state = state_of(entity) or RequestState(StateName.QUEUED, record.created_at)
    return StoredRequest(record, state, is_gone=entity.get("is_gone", False))


def state_of(entity: TableEntity) -> RequestState | None:
    """Return the state that a worker has reported."""
    text = entity.get("state")
    if text is None:
        return None
    state = json.loads(text)
    until = state["until"]
    return RequestState(
        StateName(state["state"]),
        datetime.fromisoformat(state["at"]),
        None if until is None else datetime.fromisoformat(until),
        state["code"],
        state["attempts"],
    )


def state_text(state: RequestState) -> str:
    """Return the text of a state. One property, so that a merge replaces it whole."""
    until = None if state.until is None else state.until.isoformat()
    values = {"state": state.state.value, "at": state.at.isoformat(), "until": until, "code": state.code}
    return json.dumps({**values, "attempts": state.attempts})


# --- results -------------------------------------------------------------------------------------------------------

Parts = dict[str, bytes]
"""The binary properties of one entity."""


def parts_of(body: bytes) -> list[Parts]:
    """Return the result compressed, as the properties of one or more entities. For a thread, if it is large."""
    data = zlib.compress(body, 1)
    parts = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    return [
        {f"part{number:02}": part for number, part in enumerate(parts[start : start + MAX_PARTS])}
        for start in range(0, len(parts), MAX_PARTS)
    ]


def body_of(entities: list[TableEntity], count: int) -> bytes:
    """Return the result. `count` is that of its parts: an earlier, larger result leaves further ones behind."""
    names = [f"part{number:02}" for number in range(MAX_PARTS)]
    parts = [entity[name] for entity in entities for name in names if name in entity]
    return zlib.decompress(b"".join(parts[:count]))
