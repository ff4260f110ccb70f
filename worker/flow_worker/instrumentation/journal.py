"""Records the duration of each operation of the journal."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import TypeVar

from flow_contracts.result import FlowResult
from flow_worker.journal import Acquisition, Concluded, Entry, JobKey, Journal, Lease, LeaseLost, NextStep, Pending
from flow_worker.telemetry.instruments import Timer
from flow_worker.telemetry.metrics import error_type

_T = TypeVar("_T")


class ObservedJournal:
    """A `Journal` whose operations are measured. `LeaseLost` is an answer of the journal, and no failure."""

    def __init__(self, journal: Journal, duration: Timer) -> None:
        self._journal = journal
        self._duration = duration

    async def acquire(
        self, job: JobKey, *, duration: timedelta, calls: int, repeatable: bool = False, ending: bool = False
    ) -> Acquisition:
        """See `Journal.acquire`."""
        acquiring = self._journal.acquire(job, duration=duration, calls=calls, repeatable=repeatable, ending=ending)
        return await self._timed("acquire", acquiring)

    async def schedule(self, lease: Lease, step: NextStep) -> None:
        """See `Journal.schedule`."""
        await self._timed("schedule", self._journal.schedule(lease, step))

    async def release(self, lease: Lease, *, calls: int = 0) -> None:
        """See `Journal.release`."""
        await self._timed("release", self._journal.release(lease, calls=calls))

    async def conclude(self, lease: Lease, result: FlowResult, *, max_bytes: int | None = None) -> FlowResult:
        """See `Journal.conclude`."""
        return await self._timed("conclude", self._journal.conclude(lease, result, max_bytes=max_bytes))

    async def settle(self, message_id: str, result: FlowResult) -> FlowResult | None:
        """See `Journal.settle`."""
        return await self._timed("settle", self._journal.settle(message_id, result))

    async def mark_published(self, message_id: str, origin: str) -> None:
        """See `Journal.mark_published`."""
        await self._timed("mark_published", self._journal.mark_published(message_id, origin))

    async def keep_published(self, job: JobKey, result: FlowResult, *, retention: timedelta) -> None:
        """See `Journal.keep_published`."""
        await self._timed("keep_published", self._journal.keep_published(job, result, retention=retention))

    async def keep_mark(self, key: str, *, note: str = "") -> None:
        """See `Journal.keep_mark`."""
        await self._timed("keep_mark", self._journal.keep_mark(key, note=note))

    async def recall(self, job: JobKey) -> Concluded | Pending | None:
        """See `Journal.recall`."""
        return await self._timed("recall", self._journal.recall(job))

    async def find(self, message_id: str) -> Entry | None:
        """See `Journal.find`."""
        return await self._timed("find", self._journal.find(message_id))

    async def purge(self) -> int:
        """See `Journal.purge`."""
        return await self._timed("purge", self._journal.purge())

    async def _timed(self, operation: str, work: Awaitable[_T]) -> _T:
        began, failure = time.perf_counter(), ""
        try:
            return await work
        except LeaseLost:
            raise
        except BaseException as error:
            failure = error_type(error)
            raise
        finally:
            self._duration.record(time.perf_counter() - began, operation, failure)
