"""Observes the journal's store for the readiness report."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from flow_worker.journal.store import Store, StoredDocument
from flow_worker.journal.store_watch import StoreWatch, WatchWords
from flow_worker.telemetry.health import JournalHealth

_PROBE_KEPT = timedelta(hours=1)
_WORDS = WatchWords(
    name="the journal",
    unavailable_event="journal.unavailable",
    unavailable_sentence="The journal does not work; the worker is not ready, and requests wait",
    available_event="journal.available",
    available_sentence="The journal works again.",
)


class ObservedStore:
    """A `Store` that reports to `health` whether the store takes new entries."""

    def __init__(self, store: Store, health: JournalHealth, *, deadline_seconds: float) -> None:
        self._store = store
        self._watch = StoreWatch(health, _WORDS, deadline_seconds=deadline_seconds)

    async def read(self, key: str) -> StoredDocument | None:
        """See `Store.read`. A read that succeeds proves little: a full disk can still be read."""
        return await self._watch.observed(self._store.read(key))

    async def write(
        self, key: str, document: bytes, version: str | None, expires: datetime, *, durable: bool = True
    ) -> str | None:
        """See `Store.write`."""
        written = await self._watch.observed(self._store.write(key, document, version, expires, durable=durable))
        if version is None and written is not None:
            self._watch.worked()
        return written

    async def probe(self, expires: datetime) -> None:
        """See `Store.probe`."""
        await self._watch.observed(self._store.probe(expires))
        self._watch.worked()

    async def purge(self, now: datetime, limit: int) -> int:
        """See `Store.purge`."""
        return await self._watch.observed(self._store.purge(now, limit))

    async def close(self) -> None:
        """See `Store.close`."""
        await self._store.close()

    async def keep_probing(self, every_seconds: float, now: Callable[[], datetime]) -> None:
        """Probe the store while no operation shows its state; end never."""
        await self._watch.keep_probing(every_seconds, lambda: self.probe(now() + _PROBE_KEPT))
