"""Opens the store that the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, assert_never

from flow_worker import clock
from flow_worker.gateway.store.observed import ObservedGatewayStore
from flow_worker.gateway.store.port import GatewayStore, Retention
from flow_worker.gateway.store.sqlite import SqliteGatewayStore
from flow_worker.journal.sqlite_file import SqliteLimits
from flow_worker.settings.gateway import GatewaySettings, GatewayStoreSettings
from flow_worker.telemetry.health import JournalHealth
from flow_worker.telemetry.instruments import Sample
from flow_worker.telemetry.metrics import GATEWAY_STORE_AVAILABLE, GATEWAY_STORE_LOG_SIZE, Metrics

if TYPE_CHECKING:
    from flow_worker.gateway.store.table import TableGatewayStore

_MAX_LOG_BYTES = 32 * 1024 * 1024
"""Three quarters of it are the largest result: many times what a reply queue takes by default."""
_PROBE_SECONDS = 3.0


@asynccontextmanager
async def open_gateway_store(
    settings: GatewaySettings,
    health: JournalHealth,
    *,
    client_id: str | None = None,
    metrics: Metrics | None = None,
    now: Callable[[], datetime] = clock.now,
) -> AsyncIterator[GatewayStore]:
    """Open the store of the settings; close it at the end of the context.

    Reports in `health` if the store works, also while it is idle. `client_id` names a user-assigned managed identity.
    `now` returns the time in UTC. Raises `InvalidSettings` if these settings can never work. A store that is only
    unreachable raises nothing here.
    """
    raw = await open_raw_store(settings, client_id=client_id, now=now)
    store = ObservedGatewayStore(raw, health, deadline_seconds=settings.store.deadline_seconds, metrics=metrics)
    if metrics is not None:
        metrics.gauge(GATEWAY_STORE_AVAILABLE, lambda: [(int(health.is_available), {})])
        if isinstance(raw, SqliteGatewayStore):
            metrics.gauge(GATEWAY_STORE_LOG_SIZE, partial(_log_size, raw))
    probing = asyncio.create_task(store.keep_probing(_PROBE_SECONDS), name="probe of the gateway's store")
    try:
        yield store
    finally:
        probing.cancel()
        await asyncio.wait([probing])
        await store.aclose()


async def open_raw_store(
    settings: GatewaySettings,
    *,
    client_id: str | None = None,
    now: Callable[[], datetime] = clock.now,
    reserve: bool = True,
) -> SqliteGatewayStore | TableGatewayStore:
    """Open the store of the settings, without deadlines; the caller closes it. Raises `InvalidSettings`.

    `reserve`: keep a reserve of disk space beside an SQLite file.
    """
    retention = Retention(timedelta(seconds=settings.results_seconds))
    match settings.store.backend:
        case "table":
            return await _open_table(settings.store, retention, client_id, now)
        case "sqlite":
            # Half the deadline, so that SQLite itself reports a locked file: the deadline would hide the cause.
            limits = SqliteLimits(
                busy_seconds=settings.store.deadline_seconds / 2,
                max_log_bytes=_MAX_LOG_BYTES,
                reserve_bytes=_MAX_LOG_BYTES if reserve else 0,
            )
            return await SqliteGatewayStore.open(
                settings.store.path, limits, retention, setting="gateway.store.path", now=now
            )
        case _:
            assert_never(settings.store.backend)


async def _open_table(
    settings: GatewayStoreSettings, retention: Retention, client_id: str | None, now: Callable[[], datetime]
) -> TableGatewayStore:
    # Imported here: a gateway with an SQLite store need not load the Azure Tables SDK.
    from flow_worker.gateway.store.table import TableGatewayStore

    seconds, name = settings.deadline_seconds, settings.table_name
    if settings.table_connection_string is not None:
        secret = settings.table_connection_string.get_secret_value()
        return await TableGatewayStore.by_connection_string(secret, name, retention, call_seconds=seconds, now=now)
    endpoint = settings.table_endpoint or ""
    return await TableGatewayStore.by_identity(
        endpoint, name, retention, client_id=client_id, call_seconds=seconds, now=now
    )


def _log_size(store: SqliteGatewayStore) -> list[Sample]:
    return [] if store.log_bytes is None else [(store.log_bytes, {})]
