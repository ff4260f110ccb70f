"""An outbox in memory, a sink that records its deliveries, and records of requests."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flow_contracts.result import FlowError, FlowResult, Status
from flow_worker.delivery.owed import Owed
from flow_worker.delivery.port import Asker, Attempt, Delivered, Delivery, Sink
from flow_worker.delivery.store import Row, StoredRow
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Entry

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
RETENTION = timedelta(days=7)
ADA = Asker("tenant", "ada")
_versions = itertools.count(1)


@dataclass
class Clock:
    """A clock that the test sets."""

    time: datetime = NOW

    def now(self) -> datetime:
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


def result(status: Status = Status.SUCCEEDED, *, message_id: str = "m-1", output: str | None = None) -> FlowResult:
    error = None if status is Status.SUCCEEDED else FlowError(code="flow_no_answer", message="No answer.")
    return FlowResult(
        status=status,
        flow="create-quote",
        output=output,
        output_encoding=None if output is None else "text",
        error=error,
        attempts=1,
        correlation_id="c-1",
        request_message_id=message_id,
    )


def owed(**changes: Any) -> Owed:
    """Return a record that is due now."""
    values: dict[str, Any] = {
        "sink": "row",
        "message_id": "m-1",
        "correlation_id": "c-1",
        "flow": "create-quote",
        "request_queue": "flow-requests",
        "asker": ADA,
        "fingerprint": "f-1",
        "accepted": NOW,
        "since": NOW,
        "state": "pending",
        "opened": NOW,
        "expires": NOW + RETENTION,
        "due": NOW,
    }
    return Owed(**values | changes)


def ended(status: Status = Status.SUCCEEDED, **changes: Any) -> Owed:
    """Return the record of a request that has its result."""
    message_id = str(changes.get("message_id", "m-1"))
    return owed(**{"state": "ended", "is_owner": True, "result": result(status, message_id=message_id)} | changes)


def entry(ended_with: FlowResult | None, **changes: Any) -> Entry:
    """Return the journal's entry of the request."""
    values: dict[str, Any] = {
        "message_id": "m-1",
        "fingerprint": "f-1",
        "origin": "o-1",
        "state": "leased" if ended_with is None else "concluded",
        "calls": 1,
        "expires": NOW + RETENTION,
        "result": ended_with,
    }
    return Entry(**values | changes)


class MemoryOutbox:
    """An `OutboxStore` in memory. With `is_down` it fails; `crash_at` counts the operations until the process dies."""

    def __init__(self) -> None:
        self.rows_by_key: dict[str, tuple[Row, str]] = {}
        self.is_down = False
        self.operations = 0
        self.on_operation: Callable[[int], None] = lambda _: None

    def _operate(self) -> None:
        self.operations += 1
        self.on_operation(self.operations)
        if self.is_down:
            raise TemporarilyUnavailable("journal_unavailable", "the outbox is down")

    async def read(self, key: str) -> StoredRow | None:
        self._operate()
        await asyncio.sleep(0)
        found = self.rows_by_key.get(key)
        return None if found is None else StoredRow(key, found[0].document, found[1])

    async def write(self, row: Row, version: str | None) -> str | None:
        self._operate()
        await asyncio.sleep(0)
        found = self.rows_by_key.get(row.key)
        if (None if found is None else found[1]) != version:
            return None
        new = str(next(_versions))
        self.rows_by_key[row.key] = row, new
        return new

    async def delete(self, key: str, version: str) -> bool:
        self._operate()
        await asyncio.sleep(0)
        found = self.rows_by_key.get(key)
        if found is None or found[1] != version:
            return False
        del self.rows_by_key[key]
        return True

    async def due(self, sink: str, now: datetime, limit: int) -> list[StoredRow]:
        self._operate()
        rows = [
            (row.due, key, row, version)
            for key, (row, version) in self.rows_by_key.items()
            if row.sink == sink and row.due is not None and row.due <= now
        ]
        return [StoredRow(key, row.document, version) for _, key, row, version in sorted(rows)[:limit]]

    async def sinks(self) -> list[str]:
        self._operate()
        return sorted({row.sink for row, _ in self.rows_by_key.values() if row.due is not None})

    async def rows(self) -> AsyncIterator[StoredRow]:
        for key, (row, version) in list(self.rows_by_key.items()):
            yield StoredRow(key, row.document, version)

    async def purge(self, now: datetime, limit: int) -> int:
        expired = [key for key, (row, _) in self.rows_by_key.items() if row.expires <= now][:limit]
        for key in expired:
            del self.rows_by_key[key]
        return len(expired)

    async def close(self) -> None:
        pass


@dataclass
class RecordingSink(Sink):
    """A sink that records its deliveries, and answers as the test says."""

    name: str = "row"
    answers: list[Attempt | Exception] = field(default_factory=list)
    """The answers to the next attempts; then `Delivered`."""
    seen: list[Delivery] = field(default_factory=list)
    wanted: frozenset[str] = frozenset({"pending", "ended", "settled"})
    before_answer: Callable[[Delivery], Awaitable[object]] | None = None
    began: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0
    max_in_flight: int = 0
    target: str = "organization"

    def target_of(self, delivery: Delivery) -> str:
        return self.target

    def wants(self, delivery: Delivery) -> bool:
        return delivery.state in self.wanted

    async def deliver(self, delivery: Delivery) -> Attempt:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            self.seen.append(delivery)
            self.began.set()
            if self.before_answer is not None:
                await self.before_answer(delivery)
            answer = self.answers.pop(0) if self.answers else Delivered(is_new=True)
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        pass

    @property
    def states(self) -> list[str]:
        """The states in the order of the attempts."""
        return [delivery.state for delivery in self.seen]
