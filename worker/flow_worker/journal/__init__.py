"""Remembers the calls and the result of each request, so that a redelivery causes no second call."""

from flow_worker.journal.build import open_journal, open_listing
from flow_worker.journal.entry import Entry, JobKey, LeaseHolder, NextStep
from flow_worker.journal.history import Event
from flow_worker.journal.port import (
    Acquired,
    Acquisition,
    Busy,
    Concluded,
    Conflict,
    Journal,
    Lease,
    LeaseLost,
    Pending,
    Waiting,
)

__all__ = [
    "Acquired",
    "Acquisition",
    "Busy",
    "Concluded",
    "Conflict",
    "Entry",
    "Event",
    "JobKey",
    "Journal",
    "Lease",
    "LeaseHolder",
    "LeaseLost",
    "NextStep",
    "Pending",
    "Waiting",
    "open_journal",
    "open_listing",
]
