"""Says for each dead letter what the record of its flow run says, before a replay calls the flow again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from flow_worker.dead_letters.view import DeadLetterView, RunNote
from flow_worker.delivery.port import RetryLater
from flow_worker.delivery.run_records import (
    Ambiguous,
    Ended,
    Finding,
    Open,
    RunEnd,
    RunRecord,
    RunRecords,
    Wanted,
    judge,
)
from flow_worker.flows.tracking import tracking_id

_MAX_CONCURRENT = 8
_ENDS: Mapping[RunEnd, str] = {
    RunEnd.SUCCEEDED: "succeeded",
    RunEnd.FAILED: "failed",
    RunEnd.CANCELLED: "was cancelled",
}


async def with_run_notes(
    views: Sequence[DeadLetterView],
    records: RunRecords,
    workflows: Mapping[str, str | None],
    skew: timedelta,
    now: datetime,
    progress: Callable[[], None] = lambda: None,
) -> list[DeadLetterView]:
    """Return the dead letters, those of the flows in `workflows` with a note.

    `workflows` maps the flows whose runs are recorded to their rows in Dataverse, where these are known.
    """
    slots = asyncio.Semaphore(_MAX_CONCURRENT)

    async def noted(view: DeadLetterView) -> DeadLetterView:
        if view.flow is None or view.flow not in workflows or view.accepted is None or view.correlation_id is None:
            return view
        request = Wanted(tracking_id(view.correlation_id), view.accepted - skew, now + skew, workflows[view.flow])
        async with slots:
            found = await records.find(request.tracking_id)
        progress()
        if isinstance(found, RetryLater):
            return replace(view, run=RunNote(f"the run records are not readable now: {found.cause}"))
        return replace(view, run=_note(judge(found, request)))

    return list(await asyncio.gather(*map(noted, views)))


def _note(finding: Finding) -> RunNote:
    match finding:
        case Ended(run=run, end=end):
            at = "" if run.ended is None else f" at {run.ended:%Y-%m-%d %H:%M:%S} UTC"
            return RunNote(f"its flow run {run.run_id} {_ENDS[end]}{at}", has_run=True)
        case Ambiguous(runs=runs):
            return RunNote(f"it has {len(runs)} flow runs, which ended differently", has_run=True)
        case Open(run=RunRecord() as run):
            return RunNote(f"its flow run {run.run_id} has the status '{run.status[:32]}'", has_run=True)
        case _:
            return RunNote("no flow run is recorded, which does not mean that its flow did not run")
