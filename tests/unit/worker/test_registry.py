"""Checks of inputs against schemas on the event loop: no input may raise an unexpected error or take long."""

from __future__ import annotations

import time

import pytest
from pydantic import JsonValue

from flow_worker.flows.input_schema import size_of
from flow_worker.flows.registry import Flow, Registry
from flow_worker.settings import FlowSettings


def flow(schema: dict[str, JsonValue]) -> Flow:
    url = "https://x.logic.azure.com/y"
    return Registry({"f": FlowSettings.model_validate({"url": url, "role": "r", "input_schema": schema})}).find("f")


def test_a_number_that_overflows_the_check_does_not_fit() -> None:
    assert flow({"multipleOf": 0.01}).input_fault(10**400) == "the schema cannot be applied to its values"


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
    fault = flow({"uniqueItems": True}).input_fault(items)
    assert fault == (None if unique else "$ fails 'uniqueItems': True")


def test_many_unique_items_are_checked_quickly() -> None:
    items: list[JsonValue] = [{"number": number} for number in range(20_000)]
    began = time.process_time()
    assert flow({"uniqueItems": True}).input_fault(items) is None
    assert time.process_time() - began < 5  # comparing each item with each other one would take minutes


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (None, 1),
        (True, 1),
        ("short", 1),
        ("x" * 640, 11),
        (10**300, 16),
        ([1, [2]], 4),
        ({"a": {"b": 1}}, 5),
        ({"k" * 640: 1}, 13),
    ],
)
def test_the_size_of_an_input_counts_its_values_names_and_lengths(value: JsonValue, size: int) -> None:
    assert size_of(value, 1000) == size


@pytest.mark.parametrize("value", [[0] * 10_000, {str(n): 0 for n in range(10_000)}, [[0] * 50] * 50, "x" * 100_000])
def test_the_size_of_a_large_input_is_not_counted_to_its_end(value: JsonValue) -> None:
    assert size_of(value, 100) > 100
