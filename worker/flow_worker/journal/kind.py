"""Describes a kind of SQLite file: its schema, and the words for it in errors and log lines.

The journal and the store of the gateway share the code that opens, flushes and bounds such a file.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileKind:
    """One kind of file."""

    schema: str
    schema_version: int
    table: str
    """One of its tables, which no other kind has."""
    name: str
    """For example "journal"."""
    process: str
    """The process that uses the file."""
    setting: str
    """The setting that names the file."""
    code: str
    """The code of its `TemporarilyUnavailable`."""
    if_new: str
    """The consequence of an empty file in place of one with content."""
    if_replaced: str
    """What to do after the file was replaced under the process."""
    created_event: str
    exposed_event: str
    replaced_event: str
    checkpoint_event: str
    unreachable_event: str


_JOURNAL_SCHEMA = """
CREATE TABLE entry (
    key TEXT PRIMARY KEY,
    document BLOB NOT NULL,
    version INTEGER NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX entry_expires ON entry (expires);
"""

JOURNAL = FileKind(
    schema=_JOURNAL_SCHEMA,
    schema_version=1,
    table="entry",
    name="journal",
    process="worker",
    setting="journal.path",
    code="journal_unavailable",
    if_new="may repeat calls that were in progress",
    if_replaced=(
        "stop all workers of this journal, put the file back if you can, and start them again (docs: Troubleshoot, "
        "Restore the journal's file). A worker without its journal may repeat a call that was in progress"
    ),
    created_event="journal.created",
    exposed_event="journal.exposed",
    replaced_event="journal.replaced",
    checkpoint_event="journal.checkpoint_failed",
    unreachable_event="journal.unreachable",
)
