"""Two workers on the same queues while locks expire: one result for each request, and no second call."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.azurite import azurite
from tests.support.system import SEAL_KEY, WAIT, JsonObject, running_system, short_lock, until

REQUESTS = 40


@pytest.mark.timeout(180)
@pytest.mark.parametrize("backend", ["sqlite", "table"])
async def test_expiring_locks_cause_neither_a_second_call_nor_a_second_result(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if backend == "sqlite":
        await _play(monkeypatch, {"path": str(tmp_path / "journal.sqlite3")})
    else:
        async with azurite(tmp_path) as tables:
            await _play(monkeypatch, {"backend": "table", "table_connection_string": tables.connection_string})


async def _play(monkeypatch: pytest.MonkeyPatch, journal: JsonObject) -> None:
    async with running_system(monkeypatch, short_lock(5)) as system:
        # A lease lasts as long, and after a lost lock the second worker waits for its end.
        system.flows["create-quote"] = {"timeout_seconds": 6}
        await system.put("flows/create-quote", {"delay_seconds": 0.3, "input_schema": None})
        queues = [{"name": "flow-requests", "lanes": 4}]
        settings = system.settings(
            journal=journal | {"lease_margin_seconds": 1},
            request_queues=queues,
            continuations={"lanes": 1, "seal_key": SEAL_KEY},
        )
        requests = system.emulator.broker.find("flow-requests")
        async with (
            system.worker(settings),
            system.worker(settings),
            system.client() as client,
            client.background() as background,
        ):
            claim = system.claim()
            sent = [await background.submit("create-quote", {"n": n}, claim=claim) for n in range(REQUESTS)]
            expired = 0
            while len(await system.calls("create-quote")) < REQUESTS:
                expired += requests.expire_locks()
                await asyncio.sleep(0.25)
            results = await asyncio.gather(*(background.wait(one, WAIT) for one in sent))
            for queue in ("flow-requests", "flow-continuations"):
                await until(lambda queue=queue: not system.depth("active", queue) + system.depth("scheduled", queue))
        assert expired > 0, "no lock was ever held: nothing was tested"
        assert {result.status for result in results} == {"succeeded"}
        assert len(await system.calls("create-quote")) == REQUESTS
        replies = system.emulator.broker.find("flow-replies")
        assert len(replies.peek(0, 10 * REQUESTS, None)) <= REQUESTS  # those that background left, none twice
