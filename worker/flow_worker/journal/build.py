"""Which store the journal is kept in, by the settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from flow_worker.journal.entry import Rules
from flow_worker.journal.journal import Journal
from flow_worker.journal.sqlite import SqliteStore
from flow_worker.journal.store import Store
from flow_worker.settings import JournalSettings


def _utc_now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def open_journal(
    settings: JournalSettings, *, client_id: str | None = None, now: Callable[[], datetime] = _utc_now
) -> AsyncIterator[Journal]:
    """The journal of the settings, closed at the end. `client_id`: of a user-assigned managed identity.

    Raises `InvalidSettings` if it can never be used as it is set; one that is only away is waited for later.
    """
    rules = Rules(
        retention=timedelta(seconds=settings.retention_seconds), overdue=timedelta(seconds=settings.overdue_seconds)
    )
    store = await _open_store(settings, client_id)
    try:
        yield Journal(store, rules, deadline_seconds=settings.deadline_seconds, now=now)
    finally:
        await store.close()


async def _open_store(settings: JournalSettings, client_id: str | None) -> Store:
    if settings.backend == "table":
        return await _open_table(settings, client_id)
    # Half the deadline: a busy file is then told as busy, not as one that does not answer.
    return await SqliteStore.open(settings.path, busy_seconds=settings.deadline_seconds / 2)


async def _open_table(settings: JournalSettings, client_id: str | None) -> Store:
    from flow_worker.journal.table import (
        TableStore,  # imported here: who keeps the journal in a file need not load the SDK
    )

    seconds = settings.deadline_seconds
    if settings.table_connection_string is not None:
        return await TableStore.by_connection_string(
            settings.table_connection_string.get_secret_value(), settings.table_name, call_seconds=seconds
        )
    return await TableStore.by_identity(
        settings.table_endpoint or "", settings.table_name, client_id=client_id, call_seconds=seconds
    )
