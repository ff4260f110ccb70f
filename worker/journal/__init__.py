"""Remembers what was called and concluded, so that a request delivered again is answered, not called again."""

from worker.journal.choice import open_journal
from worker.journal.entry import Busy, Concluded, Conflict, Entry, Step, Subject, Waiting
from worker.journal.journal import Begin, Begun, Claim, Journal, Pending
from worker.journal.story import Event

__all__ = [
    "Begin",
    "Begun",
    "Busy",
    "Claim",
    "Concluded",
    "Conflict",
    "Entry",
    "Event",
    "Journal",
    "Pending",
    "Step",
    "Subject",
    "Waiting",
    "open_journal",
]
