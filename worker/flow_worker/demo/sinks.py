"""The scenarios beside the reply queue: the row of a request, the user's notification, and a settled result."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace

import httpx

from flow_contracts.client import FlowClient, ResultTimeout
from flow_worker.demo.environment import EmulatorClient, Row
from flow_worker.demo.scenarios import WAIT_SECONDS, ScenarioOutcome

ROWS = "new_flowrequests"
NOTIFICATIONS = "appnotifications"
_POLL_SECONDS = 0.1


async def run_sink_scenarios(emulator: EmulatorClient, request: ScenarioOutcome, user: str) -> list[ScenarioOutcome]:
    """Wait for the row of a user's request, and for the notification that opens it."""
    row = await _row_of(emulator, request, user)
    return [row, await _notification_of(emulator, row)]


async def _row_of(emulator: EmulatorClient, request: ScenarioOutcome, user: str) -> ScenarioOutcome:
    owner = await asyncio.to_thread(emulator.system_user_id, user)

    def is_end(row: Row) -> bool:
        return row["new_correlationid"] == request.correlation_id and row["new_status"] != "pending"

    began = time.perf_counter()
    row = await _find(emulator, ROWS, is_end)
    output = request.result.output if request.result else None
    is_right = row is not None and row["ownerid"] == owner and json.loads(str(row["new_output"])) == output
    return replace(
        _blank(request, time.perf_counter() - began),
        scenario="Its user's row in Dataverse holds the result",
        brief="its row in Dataverse",
        in_dataverse="row",
        outcome="no row" if row is None else str(row["new_status"]),
        detail=f"row {row['new_flowrequestid']}" if row else "Dataverse has no row of the request.",
        ok=is_right,
        expectation="a row of the user with the flow's output",
    )


async def _notification_of(emulator: EmulatorClient, row: ScenarioOutcome) -> ScenarioOutcome:
    row_id = row.detail.removeprefix("row ")
    began = time.perf_counter()
    found = await _find(emulator, NOTIFICATIONS, lambda each: row_id in str(each["data"]))
    return replace(
        _blank(row, time.perf_counter() - began),
        scenario="The user gets a notification in the app that opens the row",
        brief="notification opens the row",
        in_dataverse="notification",
        outcome="notified" if found else "no notification",
        detail=str(found["title"]) if found else "Dataverse has no notification that opens the row.",
        ok=found is not None,
        expectation="a notification that opens the row",
    )


async def wait_for_settling(client: FlowClient, unknown: ScenarioOutcome) -> ScenarioOutcome:
    """Wait for the second result of a request whose result is `unknown`."""
    began = time.perf_counter()
    blank = replace(
        _blank(unknown, 0),
        scenario="Dataverse's record of the flow run settles it",
        brief="its run record settles it",
        in_dataverse="unknown result settled",
        expectation="succeeded, settled by flow_run",
    )
    try:
        result = await client.wait_settled(unknown.correlation_id, timeout=WAIT_SECONDS)
    except ResultTimeout as error:
        return replace(blank, outcome="no result", detail=str(error), seconds=time.perf_counter() - began)
    run = result.run.run_id if result.run else None
    outcome = str(result.status) if result.settled_by is None else f"{result.status}, settled by {result.settled_by}"
    return replace(
        blank,
        outcome=outcome,
        detail=f"flow run {run}",
        seconds=unknown.seconds + time.perf_counter() - began,
        ok=(result.status, result.settled_by) == ("succeeded", "flow_run"),
        result=result,
    )


def _blank(request: ScenarioOutcome, seconds: float) -> ScenarioOutcome:
    """Return an outcome of the same request that shows no effort of the flow."""
    return replace(request, outcome="", ok=False, seconds=seconds, result=None, activity=None)


async def _find(emulator: EmulatorClient, table: str, fits: Callable[[Row], bool]) -> Row | None:
    """Wait for a row that fits; None if it does not come."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            rows = await asyncio.to_thread(emulator.rows, table)
        except httpx.HTTPError:
            rows = []
        if found := next((row for row in rows if fits(row)), None):
            return found
        await asyncio.sleep(_POLL_SECONDS)
    return None
