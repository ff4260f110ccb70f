"""Checks of inputs against schemas: no input may raise an unexpected error or hold up other requests."""

from __future__ import annotations

import time

import pytest
from pydantic import JsonValue

from flow_worker.errors import Refused
from flow_worker.flows.registry import Flow, Registry
from flow_worker.settings import FlowSettings


def flow(schema: dict[str, JsonValue]) -> Flow:
    url = "https://x.logic.azure.com/y"
    return Registry({"f": FlowSettings.model_validate({"url": url, "role": "r", "input_schema": schema})}).find("f")


def test_a_number_that_overflows_the_check_does_not_fit() -> None:
    with pytest.raises(Refused) as refusal:
        flow({"multipleOf": 0.01}).check_input(10**400)
    assert refusal.value.code == "input_schema_mismatch"


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, 2], True),
        ([1, 1.0], False),
        ([1, True], True),
        ([0, False, None, "0"], True),
        ([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}], False),
        ([[], {}], True),
        ([], True),
    ],
)
def test_items_are_equal_by_the_rules_of_json_schema(items: list[JsonValue], *, unique: bool) -> None:
    checked = flow({"uniqueItems": True})
    if unique:
        checked.check_input(items)
    else:
        with pytest.raises(Refused, match="uniqueItems"):
            checked.check_input(items)


def test_many_unique_items_are_checked_quickly() -> None:
    items: list[JsonValue] = [{"number": number} for number in range(20_000)]
    began = time.process_time()
    flow({"uniqueItems": True}).check_input(items)
    assert time.process_time() - began < 5  # comparing each item with each other one would take minutes
