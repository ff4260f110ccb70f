"""The generated documents: OpenAPI 3.1, and the custom connector in OpenAPI 2.0."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV2SpecValidator, OpenAPIV31SpecValidator

from flow_worker.gateway import api, connector, openapi
from flow_worker.gateway.problems import KINDS, page
from tests.unit.docs.pages import ROOT

FOLDER = ROOT / "clients" / "connector"


def test_the_openapi_document_is_valid() -> None:
    OpenAPIV31SpecValidator(openapi.document("https://flows.contoso.com", 100)).validate()


def test_the_connector_definition_is_valid_and_small() -> None:
    OpenAPIV2SpecValidator(connector.definition()).validate()
    assert len(json.dumps(connector.definition())) < 1024 * 1024  # the limit of connectors


@pytest.mark.parametrize("name", list(connector.documents()))
def test_the_files_are_fresh(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == connector.documents()[name], "run `make schema`"


def test_every_operation_of_the_connector_has_a_name_and_a_summary_for_people() -> None:
    operations = [operation for path in connector.definition()["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", name) for name in names)
    for operation in operations:
        assert len(operation["summary"]) <= 80
        assert all("x-ms-summary" in parameter for parameter in operation["parameters"])


def test_the_dynamic_lists_and_schemas_of_the_connector_name_its_own_operations() -> None:
    definition = connector.definition()
    operations = {one["operationId"]: one for path in definition["paths"].values() for one in path.values()}
    start = {one["name"]: one for one in operations["StartFlow"]["parameters"]}
    values, schema = start["flow"]["x-ms-dynamic-values"], start["input"]["schema"]["x-ms-dynamic-schema"]
    flow = definition["definitions"]["FlowDescription"]["properties"]
    assert values["operationId"] in operations
    assert {values["value-path"], values["value-title"], schema["value-path"]} <= flow.keys()
    assert values["value-collection"] in definition["definitions"]["FlowList"]["properties"]
    inner = {parameter["name"] for parameter in operations[schema["operationId"]]["parameters"]}
    assert schema["parameters"].keys() == inner


def test_the_connector_uses_only_words_of_openapi_2() -> None:
    def words(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return set().union(*map(words, schema))
        if not isinstance(schema, dict):
            return set()
        named = schema.get("properties")
        inner = set().union(*map(words, named.values())) if isinstance(named, dict) else set[str]()
        return inner | schema.keys() | set().union(*(words(one) for key, one in schema.items() if key != "properties"))

    found = set().union(*map(words, connector.definition()["definitions"].values()))
    assert found.isdisjoint({"anyOf", "oneOf", "const", "examples", "$defs"})


def test_the_document_lists_every_route_and_every_problem() -> None:
    document = openapi.document("https://flows.contoso.com", 100)
    assert set(document["paths"]) == {api.FLOWS, api.FLOW, api.REQUESTS, api.REQUEST, api.EVENTS}
    text = json.dumps(document)
    for name, kind in KINDS.items():
        assert f"`{name}`" in text or kind.status in (417, 431, 500)  # of the connection, whatever the route
        assert f'id="{name}"' in page()


def test_the_reference_page_lists_every_problem() -> None:
    text = (ROOT / "docs" / "reference" / "gateway.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text, re.MULTILINE))
    assert rows == {name: str(kind.status) for name, kind in KINDS.items()}
