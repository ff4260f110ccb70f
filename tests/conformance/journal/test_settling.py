"""A worker that is killed at any point while it settles a result: one settling result, over every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from flow_contracts.result import FlowResult, Status
from flow_worker.delivery.port import Delivered, RetryLater
from flow_worker.journal import Entry, Journal
from tests.conformance.journal.conftest import Place
from tests.conformance.journal.samples import job, leased
from tests.support.run_records import RULES, Stage, delivery, row, unknown

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Killed(BaseException):
    """The process was killed."""


@dataclass
class Dying:
    """Kills the worker before or after its n-th effect."""

    at: int
    count: int = 0

    async def around(self, effect: Callable[[], Awaitable[Any]]) -> Any:
        self._pass()
        result = await effect()
        self._pass()
        return result

    def wrapped(self, effect: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        return lambda *values: self.around(lambda: effect(*values))

    def _pass(self) -> None:
        if self.count == self.at:
            raise Killed
        self.count += 1


@dataclass
class DyingJournal:
    journal: Journal
    dying: Dying

    async def settle(self, message_id: str, result: FlowResult) -> FlowResult | None:
        settled: FlowResult | None = await self.dying.around(lambda: self.journal.settle(message_id, result))
        return settled

    async def keep_mark(self, key: str, *, note: str = "") -> None:
        await self.dying.around(lambda: self.journal.keep_mark(key, note=note))

    async def find(self, message_id: str) -> Entry | None:
        return await self.journal.find(message_id)


async def attempt(stage: Stage, place: Place) -> Any:
    """Make one attempt, as a new worker process: with the newest result that the journal has."""
    async with place.journal() as journal:
        entry = await journal.find("m-1")
        assert entry is not None
        return await stage.resolver().deliver(delivery(entry.standing))


async def test_a_killed_worker_settles_a_result_exactly_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with place.journal() as journal:
        place.now = unknown().times.finished or place.now
        await journal.conclude(await leased(journal, job("m-1")), unknown())
        stage = Stage(journal)
        stage.organization.rows = [row()]
        publish, open_sinks = stage.queue.publish, stage.sinks.settled
        killed = 0
        for at in range(20):
            dying = Dying(at)
            stage.journal = DyingJournal(journal, dying)

            monkeypatch.setattr(stage.queue, "publish", dying.wrapped(publish))
            monkeypatch.setattr(stage.sinks, "settled", dying.wrapped(open_sinks))
            entry = await journal.find("m-1")
            assert entry is not None
            # The record of the run changes after the first settling result, which must stand.
            stage.organization.rows = [row(status="Succeeded" if entry.settled is None else "Failed")]
            try:
                assert await attempt(stage, place) == Delivered()
            except Killed:
                killed += 1
                continue
            break
        assert killed >= 4
        (settled,) = stage.queue.published.values()
        entry = await journal.find("m-1")
        assert entry is not None
        assert settled == entry.settled
        assert settled.status is Status.SUCCEEDED
        assert entry.result == unknown()
        assert [event.kind for event in entry.history].count("settled") == 1
        assert set(stage.sinks.opened) == {"m-1"}


async def test_a_down_queue_and_a_down_outbox_lose_no_settling_result(place: Place) -> None:
    async with place.journal() as journal:
        place.now = unknown().times.finished or place.now
        await journal.conclude(await leased(journal, job("m-1")), unknown())
        stage = Stage(journal)
        stage.organization.rows = [row()]
        stage.queue.is_down = True
        assert isinstance(await attempt(stage, place), RetryLater)
        stage.organization.rows = [row(status="Failed")]
        stage.now += RULES.max_age + timedelta(days=1)
        stage.queue.is_down = False
        assert await attempt(stage, place) == Delivered()
        (settled,) = stage.queue.published.values()
        assert settled.status is Status.SUCCEEDED
