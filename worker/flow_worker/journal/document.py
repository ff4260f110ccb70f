"""Converts entries to and from the JSON documents that the stores keep; nothing else knows that format."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flow_contracts import strict_json
from flow_contracts.result import FlowError, Status
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
    It leaves out unreadable events of the history and an unreadable settling result, and replaces an unreadable result.
    The fact that the request has a
    result must stay readable, because it keeps every worker from calling the flow again.
    """
    try:
        return _entries.validate_json(document, strict=True, context=strict_json.TRUSTED)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        if {problem["loc"][0] if problem["loc"] else None for problem in problems} <= {"history", "result", "settled"}:
            return _load_essentials(document, [problem["loc"] for problem in problems])
        raise _unreadable(error) from None


def _load_essentials(document: bytes, unreadable: list[tuple[int | str, ...]]) -> Entry:
    """Return the entry without the unreadable parts of its history and with a stand-in for an unreadable result."""
    entry: dict[str, Any] = json.loads(document)
    if any(place[0] == "result" for place in unreadable):
        entry["result"] = _stand_in(entry)
    if any(place[0] == "settled" for place in unreadable):
        del entry["settled"]
    faulty = {place[1] if len(place) > 1 else None for place in unreadable if place[0] == "history"}
    if None in faulty:
        entry["history"] = []
    elif faulty:
        entry["history"] = [event for number, event in enumerate(entry["history"]) if number not in faulty]
    try:
        return _entries.validate_json(json.dumps(entry), strict=True, context=strict_json.TRUSTED)
    except ValidationError as error:
        raise _unreadable(error) from None


def _stand_in(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a readable result in place of an unreadable one, which a later version of the worker stored."""
    result = entry["result"] if isinstance(entry["result"], dict) else {}
    correlation_id, flow = result.get("correlation_id"), result.get("flow")
    error = FlowError(
        code="result_unreadable",
        message="A later version of the worker stored the result of the request; this version cannot read it.",
    )
    return {
        "status": Status.UNKNOWN.value,
        "error": error.model_dump(),
        "attempts": entry["calls"],
        "flow": flow if isinstance(flow, str) else None,
        "correlation_id": correlation_id if isinstance(correlation_id, str) and correlation_id else entry["message_id"],
        "request_message_id": entry["message_id"],
    }


def _unreadable(error: ValidationError) -> UnreadableEntry:
    # Only the place and the kind of the first error: the values may be a flow's output.
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    location = ".".join(str(part) for part in problem["loc"])[:_MAX_LOCATION_CHARACTERS]
    return UnreadableEntry(location or problem["type"])
