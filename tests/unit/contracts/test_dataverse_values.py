from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from flow_contracts.dataverse.values import NotDataverse, parse_date, parse_optional_guid, to_object, to_plain
from tests.unit.contracts.dataverse_samples import CONTACT, SYSTEM_USER, ZEROS, entity, pairs, reference, typed
from tests.unit.contracts.strategies import json_values

MANAGED = {"CanBeChanged": True, "ManagedPropertyLogicalName": "canbedeleted"}
ALIAS = {"AttributeLogicalName": "name", "EntityLogicalName": "account", "NeedFormatting": False, "ReturnType": 0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (typed("OptionSetValue", Value=0), 0),
        (typed("OptionSetValue", Value=None), None),
        (typed("Money", Value=1250.5), 1250.5),
        (typed("BooleanManagedProperty", Value=True, **MANAGED), True),
        (typed("AliasedValue", Value="Contoso", **ALIAS), "Contoso"),
        (typed("AliasedValue", Value=typed("Money", Value=3), **ALIAS), 3),
        ([{"Value": 1}, {"Value": 4}], [1, 4]),
        ([], []),
        (typed("EntityCollection", Entities=None), []),
        ({"a": typed("EntityCollection", EntityName="contact", Entities=None)}, {"a": []}),
        (["a", "b"], ["a", "b"]),
        (CONTACT.upper(), CONTACT.upper()),
        ([{"key": "a", "value": 1}, {"key": "b", "value": typed("Money", Value=2)}], {"a": 1, "b": 2}),
    ],
    ids=str,
)
def test_a_value_of_a_known_type_becomes_plain(value: JsonValue, expected: JsonValue) -> None:
    assert to_plain(value) == expected


def test_a_type_that_is_no_text_is_unknown_and_costs_nothing_at_each_level() -> None:
    value: JsonValue = ["x" * 1000] * 1000
    for _ in range(90):
        value = {"__type": value, "__str__": 1}
    began = time.process_time()
    assert to_plain(value) == value
    assert time.process_time() - began < 0.5  # writing the inner values at each level would take seconds


def test_a_reference_omits_empty_members() -> None:
    assert to_plain(reference("systemuser", SYSTEM_USER)) == {
        "id": SYSTEM_USER,
        "logicalName": "systemuser",
        "name": None,
    }


def test_a_reference_by_alternate_key_keeps_the_key() -> None:
    by_key = reference("account", ZEROS, "Contoso") | {"KeyAttributes": pairs(number="A-1"), "RowVersion": "77"}
    assert to_plain(by_key) == {
        "id": None,
        "logicalName": "account",
        "name": "Contoso",
        "keyAttributes": {"number": "A-1"},
        "rowVersion": "77",
    }


def test_an_entity_becomes_its_attributes_and_its_other_members() -> None:
    order = {name: member for name, member in entity("order", SYSTEM_USER, total=5).items() if name != "__type"}
    relationship = {"key": {"PrimaryEntityRole": None, "SchemaName": "contact_orders"}, "value": {"Entities": [order]}}
    full = entity("contact", CONTACT, name="James", status=typed("OptionSetValue", Value=1)) | {
        "FormattedValues": pairs(status="Active"),
        "KeyAttributes": pairs(number=7),
        "RelatedEntities": [relationship],
        "RowVersion": "42",
    }
    assert to_plain(full) == {
        "@id": CONTACT,
        "@logicalName": "contact",
        "@formattedValues": {"status": "Active"},
        "@keyAttributes": {"number": 7},
        "@relatedEntities": [
            {
                "relationship": "contact_orders",
                "role": None,
                "entities": [{"@id": SYSTEM_USER, "@logicalName": "order", "total": 5}],
            }
        ],
        "@rowVersion": "42",
        "name": "James",
        "status": 1,
    }


def test_members_of_a_collection_are_recognised_without_a_type() -> None:
    untyped = {name: member for name, member in entity("contact", CONTACT, name="James").items() if name != "__type"}
    untyped["HasLazyFileAttribute"] = False  # a later version of Dataverse may add members
    collection = typed("EntityCollection", Entities=[untyped], EntityName="contact", MoreRecords=False)
    row = {"@id": CONTACT, "@logicalName": "contact", "name": "James"}
    assert to_plain(collection) == [row]
    untyped_reference: JsonValue = {
        "Id": CONTACT,
        "LogicalName": "contact",
        "Name": None,
        "KeyAttributes": [],
        "RowVersion": None,
    }
    assert to_plain([untyped_reference]) == [{"id": CONTACT, "logicalName": "contact", "name": None}]


OPEN = typed(
    "Entity",
    Attributes=[
        {"key": "@odata.type", "value": "#lines"},
        {"key": "amount", "value": 3},
        {"key": "@id", "value": {"@": [None]}},
    ],
    EntityState=None,
    FormattedValues=[],
    Id=ZEROS,
    KeyAttributes=[],
    LogicalName=None,
    RelatedEntities=[],
    RowVersion=None,
)
"""An entity of an open-type parameter of a Custom API: it has no table, and its maker chose the attributes' names."""
PLAIN_OPEN: JsonValue = {"@id": {"@": [None]}, "@logicalName": None, "@odata.type": "#lines", "amount": 3}
UNTYPED_OPEN: JsonValue = {name: member for name, member in OPEN.items() if name != "__type"}
NAMELESS_REFERENCE = typed(
    "EntityReference", Id=CONTACT, KeyAttributes=pairs(**{"@key": "A"}), LogicalName=None, Name=None, RowVersion=None
)
PLAIN_REFERENCE: JsonValue = {"id": CONTACT, "logicalName": None, "name": None, "keyAttributes": {"@key": "A"}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (OPEN, PLAIN_OPEN),
        (NAMELESS_REFERENCE, PLAIN_REFERENCE),
        ({name: member for name, member in NAMELESS_REFERENCE.items() if name != "__type"}, PLAIN_REFERENCE),
        (typed("EntityCollection", Entities=[OPEN, UNTYPED_OPEN], EntityName=None), [PLAIN_OPEN, PLAIN_OPEN]),
        ([UNTYPED_OPEN], [PLAIN_OPEN]),
        (
            entity("contact", CONTACT, lines=typed("EntityCollection", Entities=[entity("x", CONTACT, inner=OPEN)])),
            {
                "@id": CONTACT,
                "@logicalName": "contact",
                "lines": [{"@id": CONTACT, "@logicalName": "x", "inner": PLAIN_OPEN}],
            },
        ),
        (
            typed(
                "Entity",
                Attributes=[{"key": "@open", "value": NAMELESS_REFERENCE}],
                Id=None,
                LogicalName=None,
                RelatedEntities=[
                    {"key": {"PrimaryEntityRole": None, "SchemaName": None}, "value": {"Entities": [UNTYPED_OPEN]}}
                ],
            ),
            {
                "@id": None,
                "@logicalName": None,
                "@relatedEntities": [{"relationship": None, "role": None, "entities": [PLAIN_OPEN]}],
                "@open": PLAIN_REFERENCE,
            },
        ),
    ],
    ids=["entity", "reference", "untyped", "collection", "list", "nested", "related"],
)
def test_null_names_and_attributes_with_an_at_sign_are_data_at_any_depth(value: JsonValue, expected: JsonValue) -> None:
    assert to_plain(value) == expected


@pytest.mark.parametrize("type_", ["Label:http://schemas.microsoft.com/xrm/2011/Contracts", "Money:urn:other", 7])
def test_an_object_of_an_unknown_type_is_kept_with_its_type(type_: JsonValue) -> None:
    value: JsonValue = {"__type": type_, "Value": "/Date(0)/", "More": [{"Value": 1}]}
    assert to_plain(value) == {"__type": type_, "Value": "1970-01-01T00:00:00.000Z", "More": [1]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/Date(1506384247000)/", "2017-09-26T00:04:07.000Z"),
        ("/Date(1506384247009+0000)/", "2017-09-26T00:04:07.009Z"),
        ("/Date(1506384247000+0200)/", "2017-09-26T00:04:07.000Z"),
        ("/Date(1506384247000-0730)/", "2017-09-26T00:04:07.000Z"),
        ("/Date(-1)/", "1969-12-31T23:59:59.999Z"),
        ("/Date(-62135596800000)/", "0001-01-01T00:00:00.000Z"),
        ("/Date(253402300799999)/", "9999-12-31T23:59:59.999Z"),
    ],
)
def test_a_date_becomes_a_time_in_utc(text: str, expected: str) -> None:
    assert to_plain(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "/Date(-62135596800001)/",
        "/Date(253402300800000)/",
        "/Date(" + "9" * 5000 + ")/",
        "/Date()/",
        "/Date(1.5)/",
        "/Date(1+02:00)/",
        "/Date(\N{ARABIC-INDIC DIGIT ONE})/",
        "/Date(0)/\n",
        "see /Date(0)/",
    ],
    ids=lambda text: text[:24],
)
def test_text_that_only_resembles_a_date_stays_text(text: str) -> None:
    assert to_plain(text) == text
    assert parse_date(text) is None


@pytest.mark.parametrize(
    "value",
    [
        [{"key": "a", "value": 1}, {"key": "a", "value": 1}],
        typed("OptionSetValue"),
        typed("EntityCollection"),
        typed("EntityCollection", Entities={}),
        typed("Entity", LogicalName="contact", Attributes={}),
        typed("Entity", LogicalName="contact", Attributes=[{"key": 1, "value": 1}]),
        typed("Entity", LogicalName="contact", Attributes=[{"key": "a"}]),
        typed("Entity", LogicalName="contact", Attributes=[], RelatedEntities={}),
        typed("Entity", LogicalName="contact", Attributes=[], RelatedEntities=[{"key": "a", "value": {}}]),
        typed("EntityReference", LogicalName="contact", Id="7"),
        typed("EntityReference", LogicalName=7, Id=CONTACT),
        typed("Entity", Attributes=[], Id=CONTACT),
    ],
    ids=str,
)
def test_a_value_that_dataverse_does_not_write_is_refused(value: JsonValue) -> None:
    with pytest.raises(NotDataverse):
        to_plain(value)


def test_a_missing_guid_is_none_and_a_present_one_is_lower_case() -> None:
    assert parse_optional_guid(None) is None
    assert parse_optional_guid(ZEROS) is None
    assert parse_optional_guid(CONTACT.upper()) == CONTACT


@pytest.mark.parametrize("value", ["", "{" + CONTACT + "}", CONTACT.replace("-", ""), CONTACT + "\n", 0, [], {}])
def test_a_value_that_is_not_a_guid_is_refused(value: JsonValue) -> None:
    with pytest.raises(NotDataverse):
        parse_optional_guid(value)


# --- an encoder for round trips ---------------------------------------------------------------------------------

_times = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)).map(
    lambda at: at.replace(microsecond=at.microsecond // 1000 * 1000)
)
_names = st.text(st.characters(categories=["Ll", "Nd"], include_characters="_"), min_size=1, max_size=8)
_ids = st.uuids().map(str).filter(lambda text: text != ZEROS)
_scalars = st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=12)
Encoded = tuple[JsonValue, JsonValue]
"""A value as Dataverse writes it, and its plain form."""


def _date(at: datetime) -> Encoded:
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    text = at.strftime("%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03}Z"
    return f"/Date({since // timedelta(milliseconds=1)})/", f"{at.year:04}-{text}"


def _encoded_entity(table: str, id_: str, attributes: dict[str, Encoded]) -> Encoded:
    written = {name: wire for name, (wire, _) in attributes.items()}
    read = {name: value for name, (_, value) in attributes.items()}
    return entity(table, id_, **written), {"@id": id_, "@logicalName": table, **read}


_simple: st.SearchStrategy[Encoded] = st.one_of(
    _scalars.map(lambda value: (value, value)),
    _times.map(_date),
    st.integers(0, 10**9).map(lambda value: (typed("OptionSetValue", Value=value), value)),
    st.floats(-1e12, 1e12).map(lambda value: (typed("Money", Value=value), value)),
    st.lists(st.integers(0, 9), min_size=1).map(lambda values: ([{"Value": one} for one in values], list(values))),
    st.builds(
        lambda table, id_: (reference(table, id_), {"id": id_, "logicalName": table, "name": None}), _names, _ids
    ),
)
_encoded: st.SearchStrategy[Encoded] = st.recursive(
    _simple,
    lambda inner: st.one_of(
        st.builds(_encoded_entity, _names, _ids, st.dictionaries(_names, inner, max_size=4)),
        st.lists(st.builds(_encoded_entity, _names, _ids, st.dictionaries(_names, inner, max_size=2)), max_size=3).map(
            lambda rows: (typed("EntityCollection", Entities=[wire for wire, _ in rows]), [read for _, read in rows])
        ),
    ),
    max_leaves=10,
)


@given(st.dictionaries(_names, _encoded, max_size=5))
def test_decoding_an_encoded_value_yields_the_same_value(values: dict[str, Encoded]) -> None:
    written: JsonValue = [{"key": name, "value": wire} for name, (wire, _) in values.items()]
    assert to_object(written) == {name: value for name, (_, value) in values.items()}


_members = st.sampled_from(
    ["__type", "key", "value", "Value", "Entities", "Attributes", "LogicalName", "Id", "RelatedEntities", "SchemaName"]
)
_types = st.sampled_from([typed(name)["__type"] for name in ("Entity", "EntityReference", "EntityCollection", "Money")])
_hostile = st.recursive(
    json_values | _types,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_members, inner, max_size=5),
    max_leaves=15,
)


@given(_hostile)
def test_every_json_value_becomes_plain_or_raises_the_documented_error(value: JsonValue) -> None:
    try:
        to_plain(value)
    except NotDataverse as refused:
        assert str(refused)  # noqa: PT017 - either way is right; anything else fails
