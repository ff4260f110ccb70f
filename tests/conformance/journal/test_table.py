"""The journal's table when it is unreachable, silent, full or missing: a request then waits, and no flow is called."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.data.tables.aio import TableClient
from pydantic import SecretStr

from flow_worker.demo.processes import free_port
from flow_worker.errors import TemporarilyUnavailable
from flow_worker.journal import Acquired, Concluded, open_journal
from flow_worker.journal.store import DocumentTooLarge
from flow_worker.journal.table import TableStore
from flow_worker.settings import InvalidSettings, JournalSettings
from tests.conformance.journal.conftest import Place, table_place
from tests.conformance.journal.samples import LEASE, job, leased, result
from tests.support.azurite import Azurite, azurite, connection_string

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE = 1.0


@pytest.fixture
def place(tables: Azurite) -> Place:
    return table_place(tables)


def place_at(connection_string: str) -> Place:
    return Place(
        JournalSettings(
            backend="table", table_connection_string=SecretStr(connection_string), deadline_seconds=DEADLINE
        )
    )


@contextmanager
def unavailable_within(seconds: float) -> Iterator[pytest.ExceptionInfo[TemporarilyUnavailable]]:
    began = time.monotonic()
    with pytest.raises(TemporarilyUnavailable) as raised:
        yield raised
    assert raised.value.code == "journal_unavailable"
    assert time.monotonic() - began < seconds + 0.5  # tolerance for a slow test machine


# --- unreachable -------------------------------------------------------------------------------------------------


async def test_a_table_that_becomes_unreachable_is_temporarily_unavailable(tmp_path: Path) -> None:
    async with azurite(tmp_path) as tables:
        journal_opened = place_at(tables.connection_string).journal()
        journal = await journal_opened.__aenter__()
        lease = await leased(journal)
    try:
        with unavailable_within(DEADLINE):
            await journal.acquire(job("m-2"), duration=LEASE, calls=0)
        with unavailable_within(DEADLINE) as raised:
            await journal.conclude(lease, result())
        assert "127.0.0.1" not in str(raised.value)
        with unavailable_within(DEADLINE):
            await journal.purge()
    finally:
        await journal_opened.__aexit__(None, None, None)


async def test_a_table_that_never_answers_is_temporarily_unavailable() -> None:
    async with silent_port() as port, place_at(connection_string(port)).journal() as journal:
        with unavailable_within(DEADLINE):
            await journal.acquire(job(), duration=LEASE, calls=0)
        with unavailable_within(DEADLINE):
            await journal.purge()


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """Open a port that accepts connections and sends nothing."""
    closing = asyncio.Event()

    async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await closing.wait()
        writer.close()

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        closing.set()
        server.close()
        await server.wait_closed()


async def test_a_worker_starts_without_its_table_and_uses_it_later(tmp_path: Path) -> None:
    port = free_port()
    async with place_at(connection_string(port)).journal() as journal:
        with unavailable_within(DEADLINE):
            await journal.acquire(job(), duration=LEASE, calls=0)
        async with azurite(tmp_path, port):
            assert isinstance(await journal.acquire(job(), duration=LEASE, calls=0), Acquired)


async def test_a_deleted_table_is_created_again(place: Place) -> None:
    secret = place.settings.table_connection_string
    assert secret is not None
    async with (
        place.journal() as journal,
        TableClient.from_connection_string(secret.get_secret_value(), place.settings.table_name) as other,
    ):
        await other.delete_table()
        with unavailable_within(place.settings.deadline_seconds):
            await journal.acquire(job(), duration=LEASE, calls=0)
        assert isinstance(await journal.acquire(job(), duration=LEASE, calls=0), Acquired)


# --- writes whose answer was lost --------------------------------------------------------------------------------


class _AnswerLost(TableStore):
    """A table whose first answer to a write is lost."""

    lost = False

    async def write(self, *args: Any, **kwargs: Any) -> str | None:  # Any: passed on unchanged
        written = await super().write(*args, **kwargs)
        if not self.lost:
            self.lost = True
            raise TemporarilyUnavailable("journal_unavailable", "the answer was lost")
        return written


async def test_an_unconfirmed_lease_does_not_count_as_a_call(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a flow that is not idempotent would never be called, and its request would end as `unknown`."""
    monkeypatch.setattr("flow_worker.journal.table.TableStore", _AnswerLost)
    async with place.journal() as journal:
        with pytest.raises(TemporarilyUnavailable):
            await journal.acquire(job(), duration=LEASE, calls=0)
        answer = await journal.acquire(job(), duration=LEASE, calls=0)
    assert isinstance(answer, Acquired)
    assert not answer.interrupted


async def test_an_unconfirmed_conclusion_stands(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.journal() as first:
        lease = await leased(first)
    monkeypatch.setattr("flow_worker.journal.table.TableStore", _AnswerLost)
    async with place.journal() as journal:
        assert await journal.conclude(lease, result(7)) == result(7)


# --- sizes -------------------------------------------------------------------------------------------------------


async def test_a_result_too_large_for_the_table_is_published_once_and_kept_without_its_output(place: Place) -> None:
    large = result(os.urandom(1_000_000).hex())
    async with place.journal() as journal:
        assert await journal.conclude(await leased(journal), large) == large
        again = await journal.acquire(job(), duration=LEASE, calls=0)
        assert isinstance(again, Concluded)
        assert again.result.error is not None
        assert (again.result.output, again.result.error.code) == (None, "output_too_large")
        assert again.result.status == large.status
        found = await journal.find("m-1")
    assert found is not None
    assert "output_too_large" in found.history[-1].detail


async def test_the_service_accepts_the_largest_document_of_the_store(place: Place) -> None:
    secret = place.settings.table_connection_string
    assert secret is not None
    store = await TableStore.by_connection_string(secret.get_secret_value(), "sizes", call_seconds=10)
    try:
        largest = os.urandom(12 * 60 * 1024 - 1000)
        assert await store.write("aa01", largest, None, place.now) is not None
        stored = await store.read("aa01")
        assert stored is not None
        assert stored.document == largest
        with pytest.raises(DocumentTooLarge):
            await store.write("aa02", os.urandom(12 * 60 * 1024 + 1), None, place.now)
    finally:
        await store.close()


# --- opening -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("table_connection_string", "AccountName=a;Secret"),
        ("table_connection_string", "AccountKey=cm9zZWJ1ZA=="),
        ("table_endpoint", "http://contoso.table.core.windows.net"),
    ],
)
async def test_settings_that_can_never_work_are_refused_at_once(field: str, value: str) -> None:
    settings = JournalSettings.model_validate({"backend": "table", field: value})
    with pytest.raises(InvalidSettings, match=f"journal.{field}") as raised:
        async with open_journal(settings):
            pass
    assert "cm9zZWJ1ZA" not in str(raised.value)
    assert "Secret" not in str(raised.value)
