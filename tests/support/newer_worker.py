"""Runs a worker as a later version might be: its continuations and journal entries have news that this one lacks.

`python -m tests.support.newer_worker SETTINGS.json CHANGE...`, with these changes:

- `fields`: continuations and journal entries have further fields at every level, and the history has a new event.
- `kind`: continuations have a new value in `kind`, which this version cannot read.
- `contract`: continuations have the contract `flow-continuation/2`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flow_contracts.message import Message
from flow_worker.app import run
from flow_worker.journal import document
from flow_worker.pipeline.job import CONTRACT, Job
from flow_worker.settings import Settings
from flow_worker.telemetry.logs import configure

_NEW_KINDS = {"call": "call with care", "poll": "poll with care"}
_NEWS: dict[str, object] = {"novelty": {"deep": [1, None]}}


def with_fields(body: dict[str, object]) -> dict[str, object]:
    """Return an object with a new field in it and in each object below it."""
    nested = {name: with_fields(value) if isinstance(value, dict) else value for name, value in body.items()}
    return nested | _NEWS


def write_fields() -> None:
    """Add fields to continuations and entries, and an event to each history."""

    def changed(body: dict[str, object]) -> dict[str, object]:
        # Not below `input` and `tracking`, whose names are not the worker's.
        apart = {name: body.pop(name) for name in ("input", "run") if name in body}
        return with_fields(body) | apart

    def dump(entry: object) -> bytes:
        stored: dict[str, object] = json.loads(original_dump(entry))
        history = stored.get("history")
        if isinstance(history, list) and history and history[-1]["kind"] != "weighed":
            stored["history"] = [*history, history[-1] | {"kind": "weighed", "detail": ""} | _NEWS]
        return json.dumps(stored | _NEWS).encode()

    original_dump: Callable[[object], bytes] = document.dump  # type: ignore[assignment]  # the patch takes any entry
    document.dump = dump
    write(changed, CONTRACT)


def write_kind() -> None:
    """Write new values in `kind`, and read them again."""
    write(lambda body: body | {"kind": _NEW_KINDS[str(body.get("kind", "call"))]}, CONTRACT)
    known = {new: old for old, new in _NEW_KINDS.items()}
    read(lambda body: body | {"kind": known.get(str(body.get("kind")), body.get("kind"))}, CONTRACT)


def write_contract() -> None:
    """Write continuations under the next contract, and read them again."""
    write(lambda body: body, "flow-continuation/2")
    read(lambda body: body, "flow-continuation/2")


def write(change: Callable[[dict[str, object]], dict[str, object]], contract: str) -> None:
    """Change the continuations that the worker sends."""
    original: Callable[..., Message] = Job.to_message

    def to_message(self: Job, *due: object) -> Message:
        message = original(self, *due)
        body = json.dumps(change(json.loads(message.body))).encode()
        return replace(message, body=body, application_properties={"contract": contract})

    Job.to_message = to_message  # type: ignore[method-assign,assignment]


def read(change: Callable[[dict[str, object]], dict[str, object]], contract: str) -> None:
    """Read the continuations of that contract, and those of this version."""
    original: Callable[[Message], Job] = Job.from_message

    def from_message(message: Message) -> Job:
        if message.application_properties.get("contract") != contract:
            return original(message)
        body = json.dumps(change(json.loads(message.body))).encode()
        return original(replace(message, body=body, application_properties={"contract": CONTRACT}))

    Job.from_message = from_message  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[], None]] = {"fields": write_fields, "kind": write_kind, "contract": write_contract}


def main() -> None:
    path, *changes = sys.argv[1:]
    for change in changes:
        CHANGES[change]()
    configure("INFO", "text")
    asyncio.run(run(Settings.model_validate(json.loads(Path(path).read_text(encoding="utf-8")))))


if __name__ == "__main__":
    main()
