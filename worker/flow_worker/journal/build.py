"""Opens the journal over the store that the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, assert_never

from flow_worker import clock
from flow_worker.journal.observed import ObservedStore
from flow_worker.journal.port import Journal
from flow_worker.journal.sqlite import SqliteStore
from flow_worker.journal.sqlite_file import SqliteLimits
from flow_worker.journal.store import Listing
from flow_worker.journal.stored import StoredJournal
from flow_worker.journal.transitions import RetentionRules
from flow_worker.settings import JournalSettings
from flow_worker.telemetry.health import JournalHealth
from flow_worker.telemetry.instruments import Sample
from flow_worker.telemetry.metrics import JOURNAL_LOG_SIZE, Metrics

if TYPE_CHECKING:
    from flow_worker.journal.table import TableStore


@asynccontextmanager
async def open_journal(
    settings: JournalSettings,
    *,
    client_id: str | None = None,
    now: Callable[[], datetime] = clock.now,
    reached: Callable[[], datetime] | None = None,
    health: JournalHealth | None = None,
    metrics: Metrics | None = None,
    opened: SqliteStore | TableStore | None = None,
) -> AsyncIterator[Journal]:
    """Open the journal of the settings; close it at the end of the context.

    `opened`: the store of the settings, if the caller has opened it already. The context closes it, too.

    With `health`, report there if the journal works, also while it is idle. `metrics` get the size of its log.
    `client_id` names a user-assigned managed identity. `now` returns the time in UTC. `reached`: see
    `StoredJournal`.
    Raises `InvalidSettings` if these settings can never work. A store that is only unreachable raises nothing here.
    """
    rules = RetentionRules(
        retention=timedelta(seconds=settings.retention_seconds), overdue=timedelta(seconds=settings.overdue_seconds)
    )
    store: SqliteStore | TableStore | ObservedStore = opened or await open_store(settings, client_id)
    if metrics is not None and isinstance(store, SqliteStore):
        metrics.gauge(JOURNAL_LOG_SIZE, partial(_log_size, store))
    probing = None
    if health is not None:
        store = observed = ObservedStore(store, health, deadline_seconds=settings.deadline_seconds)
        probing = asyncio.create_task(observed.keep_probing(settings.probe_interval_seconds, now), name="journal probe")
    try:
        yield StoredJournal(store, rules, deadline_seconds=settings.deadline_seconds, now=now, reached=reached)
    finally:
        if probing is not None:
            probing.cancel()
            await asyncio.wait([probing])
        await store.close()


def _log_size(store: SqliteStore) -> list[Sample]:
    return [] if store.log_bytes is None else [(store.log_bytes, {})]


@asynccontextmanager
async def open_listing(settings: JournalSettings, *, client_id: str | None = None) -> AsyncIterator[Listing]:
    """Open the store of the settings, to list its documents; close it at the end. Raises `InvalidSettings`."""
    store = await open_store(settings, client_id)
    try:
        yield store
    finally:
        await store.close()


async def open_store(settings: JournalSettings, client_id: str | None) -> SqliteStore | TableStore:
    """Open the store of the settings; the caller closes it. Raises `InvalidSettings` if it can never work."""
    match settings.backend:
        case "table":
            return await _open_table(settings, client_id)
        case "sqlite":
            # Half the deadline, so that SQLite itself reports a locked file. The journal's own deadline would hide the
            # cause behind "did not answer".
            limits = SqliteLimits(
                busy_seconds=settings.deadline_seconds / 2,
                max_log_bytes=settings.max_log_bytes,
                reserve_bytes=settings.max_log_bytes if settings.reserve_bytes is None else settings.reserve_bytes,
            )
            return await SqliteStore.open(settings.path, limits)
        case _:
            assert_never(settings.backend)


async def _open_table(settings: JournalSettings, client_id: str | None) -> TableStore:
    # Imported here: a worker with an SQLite journal need not load the Azure Tables SDK.
    from flow_worker.journal.table import TableStore

    return await TableStore.open(settings, settings.table_name, client_id)
