"""Observes a store for the readiness report: by the journal's operations, and by a probe while there are none."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal.store import Store, StoredDocument, StoreReplaced
from flow_worker.telemetry.health import JournalHealth
from flow_worker.telemetry.logs import log

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_PROBE_UNAVAILABLE_SECONDS = 1.0
_PROBE_KEPT = timedelta(hours=1)
_STEADY_SECONDS = 1.0
"""The store must have worked for this long before it counts as available again.

A disk that is nearly full takes small entries and refuses large ones.
"""


class ObservedStore:
    """A `Store` that reports to `health` whether the store takes new entries."""

    def __init__(self, store: Store, health: JournalHealth, *, deadline_seconds: float) -> None:
        self._store = store
        self._health = health
        self._deadline = deadline_seconds
        self._worked_at = self._failed_at = float("-inf")

    async def read(self, key: str) -> StoredDocument | None:
        """See `Store.read`. A read that succeeds proves little: a full disk can still be read."""
        return await self._observed(self._store.read(key))

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        """See `Store.write`."""
        written = await self._observed(self._store.write(key, document, version, expires, durable=durable))
        if version is None and written is not None:
            self._worked()
        return written

    async def probe(self, expires: datetime) -> None:
        """See `Store.probe`."""
        await self._observed(self._store.probe(expires))
        self._worked()

    async def purge(self, now: datetime, limit: int) -> int:
        """See `Store.purge`."""
        return await self._observed(self._store.purge(now, limit))

    async def close(self) -> None:
        """See `Store.close`."""
        await self._store.close()

    async def keep_probing(self, every_seconds: float, now: Callable[[], datetime]) -> None:
        """Probe the store while no operation shows its state; end never."""
        while True:
            await self._probe_unless_busy(every_seconds, now)
            available = self._health.is_available
            await asyncio.sleep(every_seconds if available else min(every_seconds, _PROBE_UNAVAILABLE_SECONDS))

    async def _probe_unless_busy(self, every_seconds: float, now: Callable[[], datetime]) -> None:
        if self._health.is_available and time.monotonic() - self._worked_at < every_seconds:
            return
        try:
            with suppress(TemporarilyUnavailable, TimeoutError):
                async with asyncio.timeout(self._deadline):
                    await self.probe(now() + _PROBE_KEPT)
        except Exception as error:  # noqa: BLE001 - the probing must not end; the journal does not work this way
            self._failed(f"internal error ({type(error).__name__})")

    async def _observed(self, operation: Awaitable[_T]) -> _T:
        # Not an async context manager: it costs 2 µs more for each of a request's operations.
        begun = time.monotonic()
        try:
            return await operation
        except TemporarilyUnavailable as error:
            self._health.is_lost = self._health.is_lost or isinstance(error, StoreReplaced)
            self._failed(error.message)
            raise
        except asyncio.CancelledError:
            # The deadline of the operation cancels it. Others cancel too, but they do so sooner.
            if time.monotonic() - begun > self._deadline * 0.9:
                self._failed(f"the journal did not answer within {self._deadline:g} s")
            raise

    def _worked(self) -> None:
        self._worked_at = now = time.monotonic()
        if self._health.is_available or self._health.is_lost or now - self._failed_at < _STEADY_SECONDS:
            return
        self._health.mark_available()
        log(_log, logging.INFO, "journal.available", "The journal works again.")

    def _failed(self, error: str) -> None:
        self._failed_at = time.monotonic()
        was_available = self._health.is_available
        self._health.mark_unavailable(error)
        if was_available:
            sentence = f"The journal does not work; the worker is not ready, and requests wait: {error}"
            log(_log, logging.WARNING, "journal.unavailable", sentence)
