"""Templates: a flow's answer made from its input."""

import pytest
from pydantic import JsonValue

from servicebus_emulator.cloud.flows.host import fill

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
def test_a_placeholder_becomes_what_it_names(template: JsonValue, filled: JsonValue) -> None:
    assert fill(template, INPUT, "R1") == filled


def test_what_the_input_holds_is_not_a_template_itself() -> None:
    assert fill("{input.x}!", {"x": "{run_id}"}, "R1") == "{run_id}!"
