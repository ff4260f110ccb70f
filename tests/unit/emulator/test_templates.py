"""Templates: a flow's answer built from its input."""

import pytest
from pydantic import JsonValue

from servicebus_emulator.cloud.flows.templates import fill

INPUT: JsonValue = {"customer": "Contoso", "amount": 12.5, "lines": [{"sku": 1}], "ship": {"to": "Oslo"}}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("{input.amount}", 12.5),
        ("{input.lines}", [{"sku": 1}]),
        ("{input}", INPUT),
        ("{input.ship.to}", "Oslo"),
        ("{run_id}", "R1"),
        ("{input.missing.deeper}", None),
        ("{input.amount} for {input.customer}{input.missing}", "12.5 for Contoso"),
        ("{ input } {customer}", "{ input } {customer}"),
        ({"a": ["{input.customer}", 1, None, True]}, {"a": ["Contoso", 1, None, True]}),
    ],
)
def test_a_placeholder_is_replaced_by_its_value(template: JsonValue, filled: JsonValue) -> None:
    assert fill(template, INPUT, "R1") == filled


def test_placeholders_inside_the_input_are_not_filled() -> None:
    assert fill("{input.x}!", {"x": "{run_id}"}, "R1") == "{run_id}!"
