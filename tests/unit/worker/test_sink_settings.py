"""The settings of a sink: those of its own kind only, and columns and choices that make sense."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from flow_worker.settings import DeliverySettings
from flow_worker.settings.sinks import RowSinkFields


def faults(**changes: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        DeliverySettings.model_validate({"kind": "dataverse_row"} | changes)
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"opens": "rows"}, "opens: not for the kind 'dataverse_row'"),
        ({"kind": "in_app_notification", "impersonate": True}, "impersonate: not for the kind 'in_app_notification'"),
        ({"columns": {"status": ""}}, "columns.status is empty"),
        ({"columns": {"status": "new_a", "code": "new_a"}}, "new_a would get two values"),
        ({"columns": {"status": "New Status"}}, "columns"),
        ({"columns": {"input": "new_input"}}, "columns"),
        ({"status_choices": {"pending": 1}}, "status_choices lacks succeeded, failed, refused, unknown, expired"),
        ({"max_output_characters": 1_048_577}, "max_output_characters"),
        ({"entity_set": "a(b)/c"}, "entity_set"),
        ({"publisher_prefix": "New"}, "publisher_prefix"),
    ],
)
def test_a_fault_is_named(changes: dict[str, Any], fault: str) -> None:
    assert fault in faults(**changes)


def test_names_follow_from_the_prefix() -> None:
    fields = RowSinkFields(publisher_prefix="cr1", columns={"asker": "", "output": "cr1_answer"})
    assert (fields.table_name, fields.set_name) == ("cr1_flowrequest", "cr1_flowrequests")
    assert fields.column_names["correlation_id"] == "cr1_correlationid"
    assert fields.column_names["output"] == "cr1_answer"
    assert "asker" not in fields.column_names
