"""Remembers what was called and concluded, so that a request delivered again is answered, not called again."""

from flow_worker.journal.build import open_journal
from flow_worker.journal.entry import Busy, Concluded, Conflict, Entry, Step, Subject, Waiting
from flow_worker.journal.history import Event
from flow_worker.journal.journal import Begin, Begun, Journal, Lease, Pending

__all__ = [
    "Begin",
    "Begun",
    "Busy",
    "Concluded",
    "Conflict",
    "Entry",
    "Event",
    "Journal",
    "Lease",
    "Pending",
    "Step",
    "Subject",
    "Waiting",
    "open_journal",
]
