"""The demo's flows: their definitions for the emulator and their settings for the worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
from pydantic import JsonValue

_QUOTE_SCHEMA = (
    '{ type = "object", required = ["customer", "amount"], '
    'properties = { customer = { type = "string" }, amount = { type = "number", exclusiveMinimum = 0 } } }'
)


@dataclass(frozen=True, slots=True)
class DemoFlow:
    """One flow of the demo."""

    name: str
    """The name that senders use."""
    emulator_name: str
    """The name on the emulator."""
    definition: Mapping[str, JsonValue] | None = None
    """The definition for the emulator's control API (`FlowDefinition`); None: the emulator defines it by default."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """The worker's settings beside URL, role and timeout, as TOML values."""


def _defined(name: str, definition: Mapping[str, JsonValue], **settings: str) -> DemoFlow:
    return DemoFlow(name, name, definition, settings)


_ENTRY: JsonValue = {"template": {"entry": "{run_id}"}}
_RESET: JsonValue = {"kind": "reset_after_reading", "next_calls": 1}

FLOWS = (
    DemoFlow("create-quote", "create-quote", settings={"input_schema": _QUOTE_SCHEMA}),
    DemoFlow("create-quote-unchecked", "create-quote"),  # the same flow; only its trigger checks the input
    DemoFlow("private-quote", "create-quote", settings={"privilege": '"prvCreatenew_quote"'}),
    DemoFlow("notify-team", "notify-team"),
    DemoFlow("slow-report", "slow-report"),
    DemoFlow("broken-approval", "broken-approval"),
    _defined(
        "throttled-sync",
        {"faults": [{"kind": "throttle", "retry_after": "1", "next_calls": 2}], "response": _ENTRY},
    ),
    _defined(
        "long-approval",
        {
            "asynchronous": {"done_after_polls": 2, "retry_after": "1"},
            "response": {"template": {"approved": True, "run": "{run_id}"}},
        },
    ),
    _defined("charge-card", {"faults": [_RESET], "response": _ENTRY}, run_records="true"),
    _defined("rebuild-index", {"faults": [_RESET], "response": _ENTRY}, idempotent="true"),
    _defined(
        "sync-inventory",
        {"faults": [{"kind": "NoResponse"}], "response": _ENTRY},
        idempotent="true",
        retry="{ max_calls = 2, base_seconds = 0.5 }",
    ),
)


def emulator_name(name: str) -> str:
    """Return the flow's name on the emulator; an unregistered name is returned unchanged."""
    return next((flow.emulator_name for flow in FLOWS if flow.name == name), name)


def define(web_url: str) -> None:
    """Create the flows that the emulator does not define by default. Raise `httpx.HTTPError`."""
    for flow in FLOWS:
        if flow.definition is not None:
            _put(web_url, flow.emulator_name, flow.definition)


def repair(web_url: str, name: str) -> None:
    """Remove all faults of a flow. Raise `httpx.HTTPError`."""
    _put(web_url, name, {"faults": []})


def as_toml(flows_url: str, role: str) -> str:
    """Return the worker's tables `[flows.NAME]`."""
    return "\n".join(_table(flow, flows_url, role) for flow in FLOWS)


def _table(flow: DemoFlow, flows_url: str, role: str) -> str:
    settings = {
        "url": json.dumps(f"{flows_url}/{flow.emulator_name}/triggers/manual/paths/invoke?api-version=1"),
        "timeout_seconds": "30",
        **({} if "privilege" in flow.settings else {"role": json.dumps(role)}),
        **flow.settings,
    }
    return f"[flows.{flow.name}]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def _put(web_url: str, name: str, changes: Mapping[str, JsonValue]) -> None:
    httpx.put(f"{web_url}/emulator/flows/{name}", json=dict(changes), timeout=10).raise_for_status()
