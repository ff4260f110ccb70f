"""One canonical form of a GUID, and the spellings that each place accepts."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from flow_contracts.guid import NIL_GUID, Guid, NotGuid, parse_guid, parse_typed_guid

CANONICAL = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeee1"
OTHER_SPELLINGS = [f"{{{CANONICAL}}}", f"urn:uuid:{CANONICAL}", CANONICAL.replace("-", "")]
NOT_GUIDS = ["", "ada", "ada@contoso.com", f"{CANONICAL}0", CANONICAL[:-1], "g" * 32]


def test_a_guid_in_either_case_is_held_in_lower_case() -> None:
    assert parse_guid(CANONICAL.upper()) == parse_guid(CANONICAL) == CANONICAL
    assert TypeAdapter(Guid).validate_python(CANONICAL.upper()) == CANONICAL


def test_the_nil_guid_is_a_guid() -> None:
    assert parse_guid(NIL_GUID) == NIL_GUID


@pytest.mark.parametrize(
    "text",
    [
        *NOT_GUIDS,
        *OTHER_SPELLINGS,
        CANONICAL + "\n",
        f" {CANONICAL}",
        f"{CANONICAL}'",
        "+aaaaaaa-bbbb-cccc-dddd-eeeeeeeeeee1",
        "a_aaaaaa-bbbb-cccc-dddd-eeeeeeeeeee1",
        CANONICAL.replace("1", "\uff11"),
    ],
)
def test_another_spelling_is_refused_in_text_from_outside_without_repeating_it(text: str) -> None:
    with pytest.raises(NotGuid, match="must be an ID such as") as refused:
        parse_guid(text)
    assert not text or text not in str(refused.value)
    with pytest.raises(ValidationError):
        TypeAdapter(Guid).validate_python(text)


@pytest.mark.parametrize("text", [CANONICAL, CANONICAL.upper(), *OTHER_SPELLINGS])
def test_a_person_may_type_the_spellings_of_other_tools(text: str) -> None:
    assert parse_typed_guid(text) == CANONICAL


@pytest.mark.parametrize("text", NOT_GUIDS)
def test_a_person_may_not_type_a_name(text: str) -> None:
    with pytest.raises(NotGuid):
        parse_typed_guid(text)
