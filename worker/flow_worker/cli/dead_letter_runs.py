"""Reads the records of flow runs for `deadletters replay`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from flow_worker import clock
from flow_worker.access.build import build_identity, open_dataverse
from flow_worker.cli import terminal
from flow_worker.cli.counter import Counter
from flow_worker.dead_letters.run_notes import with_run_notes
from flow_worker.dead_letters.view import DeadLetterView
from flow_worker.delivery.run_records import RunRecords
from flow_worker.settings import DataverseSettings, HttpSettings, IdentitySettings, RecordedFlow, RunRecordSettings


class RunRecordCommandSettings(Protocol):
    """The settings that locate the records of runs."""

    @property
    def run_records(self) -> RunRecordSettings: ...
    @property
    def dataverse(self) -> DataverseSettings: ...
    @property
    def http(self) -> HttpSettings: ...
    @property
    def identity(self) -> IdentitySettings: ...
    @property
    def flows(self) -> dict[str, RecordedFlow]: ...


def read_run_records(settings: RunRecordCommandSettings, views: Sequence[DeadLetterView]) -> list[DeadLetterView]:
    """Return the dead letters with what the records of their runs say, as far as `run_records` is configured."""
    recorded = settings.run_records.flows(settings.flows)
    url = settings.run_records.url_for(settings.flows, settings.dataverse)
    wanted = sum(view.flow in recorded for view in views)
    if url is None or not wanted:
        return list(views)
    return asyncio.run(_read(settings, views, url, wanted))


async def _read(
    settings: RunRecordCommandSettings, views: Sequence[DeadLetterView], url: str, wanted: int
) -> list[DeadLetterView]:
    workflows = {name: settings.flows[name].workflow_id for name in settings.run_records.flows(settings.flows)}
    skew = timedelta(seconds=settings.run_records.clock_skew_seconds)
    with Counter(terminal.err(), "reading run records", wanted) as counter:
        async with build_identity(settings) as identity, open_dataverse(settings, url, identity, clock.now) as client:
            return await with_run_notes(views, RunRecords(client), workflows, skew, clock.now(), counter.advance)
