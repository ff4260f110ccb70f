"""Filters of rows: whatever a caller writes is a filter or is refused, and a filter selects by its grammar."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicebus_emulator.cloud.dataverse.filters import parse_filter
from servicebus_emulator.cloud.dataverse.table_definitions import FLOW_RUNS, ColumnDefinition, TableDefinition
from servicebus_emulator.cloud.dataverse.tables import Table
from servicebus_emulator.cloud.dataverse.web_api_errors import WebApiError

TABLE = Table(
    TableDefinition(
        logical_name="new_a",
        set_name="new_as",
        columns=(
            ColumnDefinition(name="text"),
            ColumnDefinition(name="number", type="Integer"),
            ColumnDefinition(name="at", type="DateTime"),
        ),
    )
)
_WORDS = st.sampled_from(
    [
        *("(", ")", ",", "'", "''", "eq", "ne", "lt", "and", "or", "not", "startswith(", "contains(text,'a')"),
        *("a", "1", "-1", "1.5", "true", "null", "text", "number", "at", "none"),
        *("2026-11-30", "2026-99-99T00:00:00Z", "7b1f0c52-6a3e-5d24-9c1e-0d6f5c7b8a91"),
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(_WORDS, max_size=12).map(" ".join)))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_filter_or_is_refused(text: str) -> None:
    try:
        selects = parse_filter(text, TABLE)
    except WebApiError:
        return
    assert selects({"text": "a", "number": 1, "at": "2026-11-30T00:00:00Z"}) in {True, False}
    assert selects({}) in {True, False}


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_a_quoted_text_selects_exactly_its_value(sought: str, stored: str) -> None:
    literal = sought.replace("'", "''")
    assert parse_filter(f"text eq '{literal}'", TABLE)({"text": stored}) == (sought.casefold() == stored.casefold())


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("number eq 1 or number eq 2 and text eq 'b'", True),
        ("(number eq 1 or number eq 2) and text eq 'b'", False),
        ("not number eq 2 and not (text eq 'b')", True),
        ("1 lt number", False),
        ("at ge 2026-11-30", True),
        ("at lt 2026-11-30T00:00:00+00:30", False),
        ("number lt null", False),
    ],
)
def test_operators_bind_as_odata_defines(text: str, selected: bool) -> None:
    assert parse_filter(text, TABLE)({"text": "a", "number": 1, "at": "2026-11-30T00:00:00Z"}) is selected


def test_an_elastic_table_compares_text_with_its_case() -> None:
    selects = parse_filter("status eq 'Succeeded'", Table(FLOW_RUNS))
    assert (selects({"status": "Succeeded"}), selects({"status": "succeeded"})) == (True, False)
