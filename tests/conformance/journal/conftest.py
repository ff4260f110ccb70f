"""A store for the journal of each backend: the conformance tests run against all of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from flow_worker.journal import Journal, open_journal
from flow_worker.settings import JournalSettings
from tests.support.azurite import Azurite, azurite

_numbers = itertools.count()


@dataclass
class Place:
    """Opens journals that share one store, with a clock that the test sets."""

    settings: JournalSettings
    now: datetime = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

    def journal(self) -> AbstractAsyncContextManager[Journal]:
        """Open the journal as one worker process does."""
        return open_journal(self.settings, now=lambda: self.now)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tables(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Azurite]:
    async with azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(params=["sqlite", "table"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(JournalSettings(path=tmp_path / "journal.sqlite3"))
    return table_place(request.getfixturevalue("tables"))


def table_place(tables: Azurite) -> Place:
    return Place(
        JournalSettings(
            backend="table",
            table_connection_string=SecretStr(tables.connection_string),
            table_name=f"journal{next(_numbers)}",
        )
    )


@pytest_asyncio.fixture(loop_scope="module")
async def journal(place: Place) -> AsyncIterator[Journal]:
    async with place.journal() as opened:
        yield opened
