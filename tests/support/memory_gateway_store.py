"""A store of the gateway in memory, for tests of what stands above it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store.port import (
    NOW,
    Changes,
    Cursor,
    PrincipalId,
    PutResult,
    RequestRecord,
    RequestState,
    Standing,
    StateName,
    StoredRequest,
    StoredResult,
)


@dataclass
class MemoryGatewayStore:
    """Keeps everything in dictionaries; fails while `is_down`."""

    is_down: bool = False
    requests: dict[str, StoredRequest] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    feed_seconds: float = 0.01

    async def add(self, record: RequestRecord) -> RequestRecord | None:
        self._require()
        if (found := self.requests.get(record.id)) is not None:
            return found.record
        self.requests[record.id] = StoredRequest(record, RequestState(StateName.QUEUED, record.created_at))
        return None

    async def mark_sent(self, request_id: str) -> None:
        self._require()
        found = self.requests[request_id]
        self.requests[request_id] = replace(found, record=replace(found.record, sent=True))

    async def get(self, request_id: str, *, reader: PrincipalId | None = None) -> StoredRequest | None:
        self._require()
        found = self.requests.get(request_id)
        is_hidden = found is not None and reader is not None and not found.record.may_read(reader)
        return replace(found, result=None) if found is not None and is_hidden else found

    async def put_state(self, request_id: str, state: RequestState) -> bool:
        self._require()
        self.requests[request_id] = replace(self.requests[request_id], state=state)
        self.changed.append(request_id)
        return True

    async def put_result(
        self, request_id: str, result: StoredResult, *, standing: Standing = Standing.FIRST
    ) -> PutResult:
        self._require()
        if request_id not in self.requests:
            return PutResult.UNKNOWN
        self.requests[request_id] = replace(self.requests[request_id], result=result)
        self.changed.append(request_id)
        return PutResult.STORED

    async def changes(self, cursor: Cursor) -> Changes:
        self._require()
        begin = len(self.changed) if cursor == NOW else int(cursor)
        return Changes(frozenset(self.changed[begin:]), Cursor(str(len(self.changed))))

    async def sync(self) -> None:
        self._require()

    async def purge(self, now: datetime) -> int:
        return 0

    async def check(self) -> None:
        self._require()

    async def aclose(self) -> None:
        pass

    def _require(self) -> None:
        if self.is_down:
            raise TemporarilyUnavailable("unavailable", "the store in memory is down")
