"""OData URLs: literals, aliases, and malformed URLs."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_emulator.cloud.dataverse import odata


def test_arguments_are_split_at_commas_outside_quotes_and_brackets() -> None:
    call = odata.call("""F(a=['x,y',"z)"],b='it''s, (so)',c=@q)""", {"@q": "1"})
    assert call.named == {"a": """['x,y',"z)"]""", "b": "'it''s, (so)'", "c": "1"}
    assert odata.strings("['x,y', 'it''s']") == ["x,y", "it's"]
    assert odata.strings('["x,y", "it\'s"]') == ["x,y", "it's"]


@given(st.text())
def test_any_string_survives_its_literal(text: str) -> None:
    literal = "'" + text.replace("'", "''") + "'"
    assert odata.string(odata.call(f"F(a={literal},b=1)", {}).literal("a")) == text


@given(st.text(alphabet="F(a=',\"[]@)% 1\n", max_size=40))
def test_any_url_is_parsed_or_refused_as_malformed(url: str) -> None:
    with suppress(odata.MalformedUrl):  # any other error fails the test
        call = odata.call(odata.segments(url)[-1], odata.aliases(url))
        for literal in call.named.values():
            odata.strings(literal)


def test_an_encoded_slash_is_part_of_its_segment() -> None:
    assert odata.segments("/a(x='%2F')/b") == ["a(x='/')", "b"]


def test_a_guid_has_hyphens_and_no_quotes() -> None:
    assert str(odata.guid("75C2DD97-8E1B-4FD4-9A5B-4D0C9D1E2F30")) == "75c2dd97-8e1b-4fd4-9a5b-4d0c9d1e2f30"
    for literal in ("75c2dd978e1b4fd49a5b4d0c9d1e2f30", "{75c2dd97-8e1b-4fd4-9a5b-4d0c9d1e2f30}", ""):
        with pytest.raises(odata.MalformedUrl):
            odata.guid(literal)
