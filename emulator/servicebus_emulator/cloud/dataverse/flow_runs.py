"""Writes the runs of flows to the table `flowruns`, late and in the platform's spelling.

Source: Microsoft Learn, "Manage cloud flow run history in Dataverse", "flowrun table reference". Undocumented are the
delay, the stored spelling of the status, whether a run has a row before it ends, and whether `clienttrackingid` holds
the caller's header unchanged. The emulator keeps the header as it came; the rest is configurable.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from pydantic import Field

from servicebus_emulator.cloud.dataverse.table_definitions import FLOW_RUNS
from servicebus_emulator.cloud.dataverse.tables import MAX_FLOW_RUNS, Tables, Values, timestamp
from servicebus_emulator.cloud.fields import Definition, Name, Seconds

_ROWS = uuid.UUID("2f8b5c1d-9e47-5a30-8c6b-7d1e0f2a3b4c")
RETENTION_SECONDS = 2_419_200
"""28 days: the default of `organization.flowruntimetoliveinseconds`."""

RunStatus = Literal["Succeeded", "Failed", "Cancelled"]


class StatusSpellings(Definition):
    """The stored texts of a run's status."""

    succeeded: Name = "Succeeded"
    failed: Name = "Failed"
    cancelled: Name = "Cancelled"
    running: Name = "Running"


class FlowRunsDefinition(Definition):
    """The rows of `flowruns` that the emulator's own flows write."""

    enabled: bool = True
    """False: the organization keeps no run history (`flowruntimetoliveinseconds` 0)."""
    delay_seconds: Seconds = 0
    """The time from the end of a run to its row."""
    shows_running: bool = False
    """A run has a row from its start, after the same delay."""
    spellings: StatusSpellings = Field(default_factory=StatusSpellings)


class FlowRun(Protocol):
    """A run of a flow."""

    @property
    def id(self) -> str:
        """The run's ID."""

    @property
    def flow_name(self) -> str:
        """The flow's name."""

    @property
    def tracking_id(self) -> str:
        """The caller's client tracking ID, else the run's ID."""

    @property
    def started(self) -> datetime:
        """The time of the start."""

    @property
    def ended(self) -> datetime | None:
        """The time of the end; None during the run."""

    @property
    def outcome_status(self) -> RunStatus:
        """The status of the run when it has ended."""

    @property
    def error(self) -> tuple[str, str] | None:
        """Code and message of the error of a run that failed."""


@dataclass(frozen=True, slots=True)
class _Change:
    """The start or the end of a run, whose row is due at a time of the monotonic clock."""

    due: float
    run: FlowRun
    ended: datetime | None
    spellings: StatusSpellings


class FlowRuns:
    """Records the runs of flows that are in a solution."""

    def __init__(self, tables: Tables, definition: Callable[[], FlowRunsDefinition]) -> None:
        self._tables = tables
        self._definition = definition
        self._changes: deque[_Change] = deque(maxlen=MAX_FLOW_RUNS)
        tables.refresh_before_reading(FLOW_RUNS.set_name, self._write_due)

    def observe(self, run: FlowRun) -> None:
        """Take note that a run began or ended.

        The rows are written when somebody reads them: a benchmark of flows would measure their creation otherwise.
        """
        definition = self._definition()
        if definition.enabled and (run.ended is not None or definition.shows_running):
            due = time.monotonic() + definition.delay_seconds
            self._changes.append(_Change(due, run, run.ended, definition.spellings))

    def _write_due(self) -> None:
        table = self._tables.by_set(FLOW_RUNS.set_name)
        if table is None or not self._changes:
            return
        now = time.monotonic()
        changes = list(self._changes)
        self._changes = deque((change for change in changes if change.due > now), maxlen=MAX_FLOW_RUNS)
        for change in changes:
            if change.due <= now:
                self._tables.put(table, uuid.uuid5(_ROWS, change.run.id), _values(change))


def _values(change: _Change) -> Values:
    run, spellings = change.run, change.spellings
    values: Values = {
        "name": run.id,
        "clienttrackingid": run.tracking_id,
        "status": spellings.running,
        "starttime": timestamp(run.started),
        "triggertype": "Instant",  # undocumented for HTTP-triggered flows
        "workflowid": str(uuid.uuid5(_ROWS, run.flow_name)),
        "isprimary": True,
        "ttlinseconds": RETENTION_SECONDS,
    }
    return values if change.ended is None else values | _end(run, change.ended, spellings)


def _end(run: FlowRun, ended: datetime, spellings: StatusSpellings) -> Values:
    texts = {"Succeeded": spellings.succeeded, "Failed": spellings.failed, "Cancelled": spellings.cancelled}
    code, message = run.error or (None, None)
    return {
        "status": texts[run.outcome_status],
        "endtime": timestamp(ended),
        "duration": int((ended - run.started).total_seconds() * 1000),
        "errorcode": code,
        "errormessage": message,
    }
