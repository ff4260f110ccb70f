"""The content of an in-app notification: a row of the table `appnotification`.

Source: Microsoft Learn, "Send in-app notifications within model-driven apps".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from flow_contracts.result import FlowResult
from flow_worker.delivery.column_text import clean, shortened

_ICONS: Mapping[str, int] = {
    "succeeded": 100000001,
    "failed": 100000002,
    "refused": 100000002,
    "unknown": 100000003,
    "expired": 100000003,
}
"""1: success, 2: failure, 3: warning."""
_TOASTS = {"timed": 200000000, "hidden": 200000001}
_TITLES: Mapping[str, str] = {
    "succeeded": "{flow} is done",
    "failed": "{flow} failed",
    "refused": "{flow} was refused",
    "unknown": "{flow}: the outcome is unknown",
    "expired": "{flow} expired",
}
_BODIES: Mapping[str, str] = {
    "succeeded": "The flow succeeded.",
    "failed": "{message}",
    "refused": "{message}",
    "unknown": "{message}",
    "expired": "{message}",
}
_NO_FLOW = "The request"
_MAX_TITLE_CHARACTERS = 100
_MAX_BODY_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class NotificationTexts:
    """The texts and the look of a sink's notifications."""

    titles: Mapping[str, str]
    bodies: Mapping[str, str]
    toast: Literal["timed", "hidden"]
    time_to_live_seconds: int
    action_title: str
    flow_titles: Mapping[str, str]
    """The flows' names for people."""


def notification_content(
    result: FlowResult, recipient: str, texts: NotificationTexts, row: tuple[str, str] | None
) -> dict[str, JsonValue]:
    """Return the values of the notification.

    `recipient`: the ID of the user's row. `row`: the logical name of the table and the ID of the row that the
    notification opens.
    """
    status = result.status.value
    values = _values(result, texts)
    content: dict[str, JsonValue] = {
        "title": shortened(_filled(texts.titles.get(status, _TITLES[status]), values), _MAX_TITLE_CHARACTERS),
        "body": shortened(_filled(texts.bodies.get(status, _BODIES[status]), values), _MAX_BODY_CHARACTERS),
        "ownerid@odata.bind": f"/systemusers({recipient})",
        "icontype": _ICONS[status],
        "toasttype": _TOASTS[texts.toast],
        "ttlinseconds": texts.time_to_live_seconds,
    }
    if row is not None:
        content["data"] = _action(texts.action_title, *row)
    return content


def _values(result: FlowResult, texts: NotificationTexts) -> dict[str, str]:
    flow = _NO_FLOW if result.flow is None else texts.flow_titles.get(result.flow, result.flow)
    return {
        "flow": flow,
        "status": result.status.value,
        "code": "" if result.error is None else result.error.code,
        "message": "" if result.error is None else result.error.message,
        "correlation_id": result.correlation_id,
    }


def _filled(text: str, values: Mapping[str, str]) -> str:
    return clean(text.format_map(values))


def _action(title: str, table: str, row: str) -> str:
    """Return the column `data`: one action, which opens the row."""
    url = f"?pagetype=entityrecord&etn={table}&id={row}"
    action = {"title": title, "data": {"type": "url", "url": url, "navigationTarget": "newWindow"}}
    return json.dumps({"actions": [action]}, separators=(",", ":"))
