"""Converts entries to and from the JSON documents that the stores keep; nothing else knows that format."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from flow_worker.journal.entry import Entry

_entries = TypeAdapter(Entry)
_MAX_LOCATION_CHARACTERS = 128


class UnreadableEntry(Exception):
    """The document is not an entry that this version can read."""


def dump(entry: Entry) -> bytes:
    """Return the entry as UTF-8 JSON."""
    return _entries.dump_json(entry, exclude_defaults=True)


def load(document: bytes) -> Entry:
    """Return the entry of a document. Raises `UnreadableEntry` with the faulty field if it is not an entry.

    The function ignores fields that a later version added, so that two versions may share a journal during an upgrade.
    """
    try:
        return _entries.validate_json(document, strict=True)
    except ValidationError as error:
        # Only the place and the kind of the first error: the values may be a flow's output.
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        location = ".".join(str(part) for part in problem["loc"])[:_MAX_LOCATION_CHARACTERS]
        raise UnreadableEntry(location or problem["type"]) from None
