"""Reads Dataverse's records of flow runs, and decides what they say about one request.

The platform writes a record some time after the run, for flows in solutions only, and may leave it out. So a missing
record proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from urllib.parse import quote

from flow_contracts.guid import NotGuid, parse_guid
from flow_contracts.result import FlowResult
from flow_worker.dataverse.client import DATAVERSE_UNAVAILABLE, DataverseClient, WebApiAnswer
from flow_worker.delivery.port import RetryLater
from flow_worker.errors import TemporarilyUnavailable

COLUMNS: Final = (
    *("name", "status", "starttime", "endtime", "errorcode", "errormessage"),
    *("clienttrackingid", "parentrunid", "workflowid"),
)
"""Microsoft Learn, Web API reference, "flowrun EntityType"."""
_MAX_RUNS: Final = 50
_MAX_ID_CHARACTERS: Final = 128
_MAX_TEXT_CHARACTERS: Final = 2000
_RUN_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_RETRIED: Final = frozenset({401, 408, 429})


class RunEnd(StrEnum):
    """How a flow run ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_ENDS: Final = (("succ", RunEnd.SUCCEEDED), ("fail", RunEnd.FAILED), ("cancel", RunEnd.CANCELLED))
"""The beginnings of the statuses. The documentation and the stored rows spell them in different ways."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The record of one flow run."""

    run_id: str
    status: str
    started: datetime | None = None
    ended: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    tracking_id: str | None = None
    workflow: str | None = None
    """The row of the flow in the table `workflow`."""
    is_child: bool = False
    """A flow that another flow called: it inherits the tracking ID."""

    @property
    def end(self) -> RunEnd | None:
        """How the run ended; None while it runs, and for a status that this version does not know."""
        text = self.status.strip().casefold()
        return next((end for beginning, end in _ENDS if text.startswith(beginning)), None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The request whose run is wanted."""

    tracking_id: str
    not_before: datetime
    not_after: datetime
    workflow: str | None = None
    """Only runs of this flow count; None: of any flow."""
    run_id: str | None = None
    """The run, if the flow's answer named it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run of the request has ended."""

    run: RunRecord
    end: RunEnd


@dataclass(frozen=True, slots=True)
class Open:
    """No record says how the request ended. One may say so later."""

    reason: str
    run: RunRecord | None = None


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several runs may be the request's, and they ended differently."""

    runs: tuple[RunRecord, ...]


Finding = Ended | Open | Ambiguous


def wanted(result: FlowResult, tracking_id: str, skew: timedelta, workflow: str | None = None) -> Wanted | None:
    """Return the search for the run of a request without an answer; None if no call of it may have gone out.

    The run began between the first call and the decision that there was no answer, as far as the clocks agree.
    """
    begin = result.times.started or result.times.accepted
    if result.attempts == 0 or begin is None or result.times.finished is None:
        return None
    # After several calls, the run may be that of an earlier one.
    run_id = result.run.run_id if result.run is not None and result.attempts == 1 else None
    return Wanted(tracking_id, begin - skew, result.times.finished + skew, workflow, run_id)


def judge(runs: Iterable[RunRecord], request: Wanted) -> Finding:
    """Return what the records say about the request."""
    matching = [run for run in runs if _may_be_of(run, request)]
    if not matching:
        return Open("there is no record of its run")
    is_open = next((run for run in matching if run.end is None), None)
    if is_open is not None:
        return Open(f"the record of its run says '{is_open.status[:32]}'", is_open)
    ends = {run.end for run in matching}
    first = min(matching, key=lambda run: run.started or request.not_after)
    if len(ends) > 1 or first.end is None:
        return Ambiguous(tuple(matching))
    return Ended(first, first.end)


def _may_be_of(run: RunRecord, request: Wanted) -> bool:
    if run.is_child or (run.tracking_id is not None and run.tracking_id != request.tracking_id):
        return False  # Dataverse compares texts without regard to case
    if request.run_id is not None and run.run_id != request.run_id:
        return False
    if request.workflow is not None and run.workflow is not None and run.workflow != request.workflow:
        return False
    # Any sender can name the same correlation ID. Without a time the run may be of any of them.
    return run.started is not None and request.not_before <= run.started <= request.not_after


class RunRecords:
    """The table of flow runs of one organization."""

    def __init__(self, client: DataverseClient) -> None:
        self._client = client

    @property
    def url(self) -> str:
        """The organization's URL."""
        return self._client.url

    async def find(self, tracking_id: str) -> Sequence[RunRecord] | RetryLater:
        """Return the records with this tracking ID, or why there is no answer."""
        try:
            answer = await self._client.get(path_of(tracking_id))
        except TemporarilyUnavailable as error:
            return RetryLater(error.code, error.message, error.until, is_outage=True)
        if answer.status != 200:
            return _refusal(answer)
        try:
            document = answer.json()
            rows = document["value"]
            if "@odata.nextLink" in document or len(rows) > _MAX_RUNS:
                return RetryLater("run_records_too_many", f"more than {_MAX_RUNS} runs have the request's tracking ID")
            return [_record(row) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError):
            return RetryLater(DATAVERSE_UNAVAILABLE, "Dataverse's answer about flow runs cannot be parsed")


def path_of(tracking_id: str) -> str:
    """Return the path of the query; a quote in the ID is doubled (OData 4.01, URL conventions)."""
    literal = quote("'" + tracking_id.replace("'", "''") + "'", safe="")
    return f"/flowruns?$select={','.join(COLUMNS)}&$filter=clienttrackingid%20eq%20{literal}&$top={_MAX_RUNS + 1}"


def _refusal(answer: WebApiAnswer) -> RetryLater:
    status = answer.status
    if status in _RETRIED or status >= 500:
        return RetryLater(DATAVERSE_UNAVAILABLE, f"Dataverse answered {status}", answer.retry_after, is_outage=True)
    if status == 403:
        cause = "Dataverse refused to read flow runs; give the worker's application user read on Flow Run"
        return RetryLater("run_records_refused", f"{cause} (prvReadflowrun, organization)")
    cause = f"Dataverse answered {status} to a query of flowruns; check run_records.url"
    return RetryLater("run_records_refused", cause)


def _record(row: dict[str, Any]) -> RunRecord:
    """Return the record of a row. Raises `ValueError`, `KeyError`, `TypeError` and `AttributeError`."""
    return RunRecord(
        run_id=_run_id(row["name"]),
        status=_text(row.get("status")) or "",
        started=_time(row.get("starttime")),
        ended=_time(row.get("endtime")),
        error_code=_text(row.get("errorcode")),
        error_message=_text(row.get("errormessage")),
        tracking_id=_text(row.get("clienttrackingid")),
        workflow=_guid(row.get("workflowid") or row.get("_workflow_value")),
        is_child=bool(row.get("parentrunid")),
    )


def _run_id(value: Any) -> str:
    if not isinstance(value, str) or _RUN_NAME.fullmatch(value) is None:
        raise ValueError("not the name of a run")
    return value


def _text(value: Any) -> str | None:
    return value[:_MAX_TEXT_CHARACTERS] if isinstance(value, str) and value else None


def _guid(value: Any) -> str | None:
    try:
        return parse_guid(value) if isinstance(value, str) else None
    except NotGuid:
        return None


def _time(value: Any) -> datetime | None:
    """Return a time with its zone; a time without one is UTC, as Dataverse writes."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
