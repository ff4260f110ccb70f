"""A store lists all of its documents in pages, for `flow-worker journal`."""

from __future__ import annotations

import pytest

from flow_worker.journal import open_listing, sqlite, table
from flow_worker.journal.document import load
from tests.conformance.journal.conftest import Place
from tests.conformance.journal.samples import job, leased, result

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_listing_has_every_entry_and_the_latest_state(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sqlite, table):
        monkeypatch.setattr(module, "_PAGE", 3)
    async with place.journal() as journal:
        for number in range(7):
            await leased(journal, job(f"m-{number}"))
        await journal.conclude(await leased(journal, job("done")), result("x" * 100_000))
    async with open_listing(place.settings) as listing:
        entries = [load(data) async for data in listing.documents() if data]
    assert {entry.message_id for entry in entries} == {"done", *(f"m-{number}" for number in range(7))}
    assert [entry.message_id for entry in entries if entry.result is not None] == ["done"]
