"""Entries as the stores keep them: one JSON document each."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from flow_worker.journal.entry import Entry

_entries = TypeAdapter(Entry)


class Unreadable(Exception):
    """The document is no entry that this version can read."""


def dump(entry: Entry) -> bytes:
    """The entry as UTF-8 JSON."""
    return _entries.dump_json(entry, exclude_defaults=True)


def load(document: bytes) -> Entry:
    """Raises `Unreadable`. What a later version added is passed over, so that versions may work side by side."""
    try:
        return _entries.validate_json(document, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise Unreadable(".".join(str(step) for step in problem["loc"])[:128] or problem["type"]) from None
