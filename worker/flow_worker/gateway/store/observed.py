"""Gives the operations of the gateway's store a deadline, times them, and observes the store for readiness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from datetime import datetime
from typing import TypeVar

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.gateway.store.port import (
    Changes,
    Cursor,
    GatewayStore,
    PrincipalId,
    PutResult,
    RequestRecord,
    RequestState,
    Standing,
    StoredRequest,
    StoredResult,
)
from flow_worker.journal.store_watch import StoreWatch, WatchWords
from flow_worker.telemetry.health import JournalHealth
from flow_worker.telemetry.metrics import Metrics, error_type

_T = TypeVar("_T")

_WORDS = WatchWords(
    name="the gateway's store",
    unavailable_event="gateway_store.unavailable",
    unavailable_sentence="The gateway's store does not work; the gateway is not ready and answers 503",
    available_event="gateway_store.available",
    available_sentence="The gateway's store works again.",
)


class ObservedGatewayStore:
    """A `GatewayStore` that wraps another one."""

    def __init__(
        self, store: GatewayStore, health: JournalHealth, *, deadline_seconds: float, metrics: Metrics | None = None
    ) -> None:
        self._store = store
        self._watch = StoreWatch(health, _WORDS, deadline_seconds=deadline_seconds)
        self._deadline = deadline_seconds
        self._timer = None if metrics is None else metrics.gateway_store_duration
        self.feed_seconds = store.feed_seconds

    async def add(self, record: RequestRecord) -> RequestRecord | None:
        """See `GatewayStore.add`."""
        existing = await self._observed("add", self._store.add(record))
        if existing is None:
            self._watch.worked()
        return existing

    async def mark_sent(self, request_id: str) -> None:
        """See `GatewayStore.mark_sent`. It does nothing that takes time."""
        await self._store.mark_sent(request_id)

    async def get(self, request_id: str, *, reader: PrincipalId | None = None) -> StoredRequest | None:
        """See `GatewayStore.get`. A read that succeeds proves little: a full disk can still be read."""
        return await self._observed("get", self._store.get(request_id, reader=reader))

    async def put_state(self, request_id: str, state: RequestState) -> bool:
        """See `GatewayStore.put_state`."""
        return await self._observed("put_state", self._store.put_state(request_id, state))

    async def put_result(
        self, request_id: str, result: StoredResult, *, standing: Standing = Standing.FIRST
    ) -> PutResult:
        """See `GatewayStore.put_result`."""
        return await self._observed("put_result", self._store.put_result(request_id, result, standing=standing))

    async def changes(self, cursor: Cursor) -> Changes:
        """See `GatewayStore.changes`. It is not timed: most reads find nothing, and cost nothing."""
        return await self._watch.observed(self._within_deadline(self._store.changes(cursor)))

    async def sync(self) -> None:
        """See `GatewayStore.sync`."""
        await self._observed("sync", self._store.sync())

    async def purge(self, now: datetime) -> int:
        """See `GatewayStore.purge`. Each of its steps has a deadline; all of them together may take minutes."""
        return await self._watch.observed(self._store.purge(now))

    async def check(self) -> None:
        """See `GatewayStore.check`."""
        await self._observed("check", self._store.check())
        self._watch.worked()

    async def aclose(self) -> None:
        """See `GatewayStore.aclose`."""
        await self._store.aclose()

    async def keep_probing(self, every_seconds: float) -> None:
        """Check the store while no operation shows its state; end never."""
        await self._watch.keep_probing(every_seconds, self.check)

    async def _observed(self, name: str, operation: Awaitable[_T]) -> _T:
        began, failure = time.perf_counter(), ""
        try:
            return await self._watch.observed(self._within_deadline(operation))
        except BaseException as error:
            failure = error_type(error)
            raise
        finally:
            if self._timer is not None:
                self._timer.record(time.perf_counter() - began, name, failure)

    async def _within_deadline(self, operation: Awaitable[_T]) -> _T:
        try:
            async with asyncio.timeout(self._deadline):
                return await operation
        except TimeoutError:
            sentence = f"the gateway's store did not answer within {self._deadline:g} s"
            raise TemporarilyUnavailable("unavailable", sentence) from None
