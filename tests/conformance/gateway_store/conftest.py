"""A store of the gateway over each backend: the conformance tests run against all of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from flow_worker.gateway.store import GatewayStore, PrincipalId, RequestRecord, Retention
from flow_worker.gateway.store.sqlite import SqliteGatewayStore
from flow_worker.gateway.store.table import TableGatewayStore
from flow_worker.journal.sqlite_file import SqliteLimits
from tests.support.azurite import Azurite, azurite

MIB = 1024 * 1024
RETENTION = Retention(timedelta(days=1), pending=timedelta(days=10))
LIMITS = SqliteLimits(busy_seconds=5, max_log_bytes=16 * MIB, reserve_bytes=0)
_numbers = itertools.count()


@dataclass
class Place:
    """Opens stores that share one place, with a clock that the test sets."""

    path: Path | None = None
    connection_string: str = ""
    table: str = field(default_factory=lambda: f"gateway{next(_numbers)}")
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @asynccontextmanager
    async def store(self) -> AsyncIterator[GatewayStore]:
        """Open the store as one replica does."""
        opened: GatewayStore
        if self.path is not None:
            opened = await SqliteGatewayStore.open(
                self.path, LIMITS, RETENTION, setting="gateway.store.path", now=lambda: self.now
            )
        else:
            opened = await TableGatewayStore.by_connection_string(
                self.connection_string, self.table, RETENTION, call_seconds=10, now=lambda: self.now
            )
        try:
            yield opened
        finally:
            await opened.aclose()

    def record(self, request_id: str = "") -> RequestRecord:
        """Return the record of a new request."""
        return RequestRecord(
            id=request_id or f"request-{next(_numbers)}",
            owner=PrincipalId("tenant", "anna"),
            asserter=None,
            flow="create-order",
            digest="digest",
            created_at=self.now,
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tables(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azurite]:
    async with azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(params=["sqlite", "table"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(path=tmp_path / "gateway.sqlite3")
    tables: Azurite = request.getfixturevalue("tables")
    return Place(connection_string=tables.connection_string)


@pytest_asyncio.fixture(loop_scope="module")
async def store(place: Place) -> AsyncIterator[GatewayStore]:
    async with place.store() as opened:
        yield opened
