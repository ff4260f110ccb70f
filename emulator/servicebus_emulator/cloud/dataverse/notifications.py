"""The action `SendAppNotification`: it creates a row of `appnotification` for one user.

Source: Microsoft Learn, "Send in-app notifications within model-driven apps", "SendAppNotification action". The
documentation shows the answer 204, although the action's response type has a `NotificationId`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from servicebus_emulator.cloud.dataverse.custom_api_definitions import ParameterDefinition
from servicebus_emulator.cloud.dataverse.parameters import parse_parameters

ACTION = "SendAppNotification"
PRIVILEGE = "prvSendAppNotification"

_PARAMETERS = (
    ParameterDefinition(name="Title"),
    ParameterDefinition(name="Recipient"),
    ParameterDefinition(name="Body", optional=True),
    ParameterDefinition(name="IconType", type="Integer", optional=True),
    ParameterDefinition(name="ToastType", type="Integer", optional=True),
    ParameterDefinition(name="Priority", type="Integer", optional=True),
    ParameterDefinition(name="Expiry", type="Integer", optional=True),
    ParameterDefinition(name="OverrideContent", type="Entity", optional=True),
    ParameterDefinition(name="Actions", type="Entity", optional=True),
)
_COLUMNS = {
    "Title": "title",
    "Recipient": "ownerid@odata.bind",
    "Body": "body",
    "IconType": "icontype",
    "ToastType": "toasttype",
    "Priority": "priority",
    "Expiry": "ttlinseconds",
}
_DEFAULTS: Mapping[str, JsonValue] = {
    "icontype": 100_000_000,
    "toasttype": 200_000_000,
    "priority": 200_000_000,
    "ttlinseconds": 14 * 86_400,
}


def to_row(body: bytes) -> dict[str, JsonValue]:
    """Return the body of the create that the action stands for. Raise `WebApiError`."""
    given = parse_parameters(ACTION, _PARAMETERS, body)
    columns = {column: given[name] for name, column in _COLUMNS.items() if given.get(name) is not None}
    data: dict[str, JsonValue] = {}
    for name in ("OverrideContent", "Actions"):
        value = given.get(name)
        if isinstance(value, dict):
            data |= {key: _plain(item) for key, item in value.items() if "@odata" not in key}
    return {**_DEFAULTS, **columns, **({"data": json.dumps(data)} if data else {})}


def _plain(value: JsonValue) -> JsonValue:
    """Return the value without the annotations of open types."""
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items() if "@odata" not in key}
        case list():
            return [_plain(item) for item in value]
        case _:
            return value
