"""The content of a request's row: one value for each column that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import JsonValue

from flow_contracts.result import FlowResult
from flow_worker.delivery.column_text import clean, json_text, length, shortened
from flow_worker.delivery.port import Asker, Delivery
from flow_worker.settings.sinks import RowField, RowStatus

PENDING = "pending"
TOO_LARGE = "output_too_large"
_MAX_CHARACTERS: Mapping[RowField, int] = {
    "message_id": 128,
    "correlation_id": 128,
    "flow": 128,
    "message": 2000,
    "output_type": 200,
    "run_id": 200,
    "run_url": 500,
    "replayed_as": 128,
}
"""The lengths that the columns need; a longer text is cut."""
_DEFAULT_MAX_CHARACTERS = 100
"""The length that Dataverse gives a new column of text."""


@dataclass(frozen=True, slots=True)
class RowTable:
    """The table of the rows, as the settings describe it."""

    entity_set: str
    """The name in the URL, such as `new_flowrequests`."""
    columns: Mapping[RowField, str]
    """The logical name of each column. A field that is not here gets no column."""
    choices: Mapping[RowStatus, int]
    """The choice value of each status; empty: the status as text."""
    max_output_characters: int


def row_content(delivery: Delivery, table: RowTable, *, with_output: bool = True) -> dict[str, JsonValue]:
    """Return the row's values by column. Without a result only the columns that are known from the start.

    `with_output=False`: for a column that is shorter than the settings say.
    """
    values = _known(delivery)
    if delivery.result is None:
        values["status"] = PENDING
    else:
        values |= _ended(delivery.result, _max_output(table, with_output=with_output))
    content: dict[str, JsonValue] = {}
    for field, value in values.items():
        if (column := table.columns.get(field)) is None:
            continue
        content[column] = _as_column(field, value, table)
    return content


def _known(delivery: Delivery) -> dict[RowField, JsonValue]:
    """Return what the row says from the start. The result names the flow only if the sender may learn of it."""
    result = delivery.result
    flow = delivery.flow if result is None else result.flow
    values: dict[RowField, JsonValue] = {
        "message_id": delivery.request_id,
        "correlation_id": delivery.correlation_id,
        "asker": _asker(delivery.asker),
        "replayed_as": delivery.message_id if delivery.replay_of else None,
        "accepted_on": _time(delivery.accepted),
    }
    if flow is not None or result is None:
        values |= {"name": f"{flow or 'request'} {delivery.correlation_id}", "flow": flow}
    return values


def _max_output(table: RowTable, *, with_output: bool) -> int | None:
    """Return the longest output; None without a column for it."""
    if "output" not in table.columns:
        return None
    return table.max_output_characters if with_output else 0


def _ended(result: FlowResult, max_output_characters: int | None) -> dict[RowField, JsonValue]:
    """Return what the result adds. A value that the result lacks becomes null: an earlier result may have had it."""
    wanted = max_output_characters is not None and result.output_encoding is not None
    output = _output(result) if wanted else None
    code = None if result.error is None else result.error.code
    message = None if result.error is None else result.error.message
    encoding: str | None = None if output is None else result.output_encoding
    if output is not None and (found := length(output)) > (max_output_characters or 0):
        code = code or TOO_LARGE
        message = message or f"The output has {found} characters, and its column holds fewer."
        output, encoding = None, None
    return {
        "status": result.status.value,
        "code": code,
        "message": message,
        "output": output,
        "output_type": result.output_type,
        "output_encoding": encoding,
        "http_status": result.http_status,
        "attempts": result.attempts,
        "note": result.note,
        "run_id": None if result.run is None else result.run.run_id,
        "run_url": result.run_url,
        "finished_on": _time(result.times.finished),
        "settled_by": result.settled_by,
    }


def _output(result: FlowResult) -> str:
    if result.output_encoding == "json" or not isinstance(result.output, str):
        return json_text(result.output)
    return clean(result.output)


def _as_column(field: RowField, value: JsonValue, table: RowTable) -> JsonValue:
    if not isinstance(value, str):
        return value
    if field == "status" and table.choices:
        return next(number for status, number in table.choices.items() if status == value)
    if field == "output":
        return value
    return shortened(clean(value), _MAX_CHARACTERS.get(field, _DEFAULT_MAX_CHARACTERS))


def _asker(asker: Asker) -> str | None:
    return asker.oid or asker.system_user


def _time(moment: datetime | None) -> str | None:
    """Return the time as Dataverse keeps it: in UTC, without fractions of a second."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
