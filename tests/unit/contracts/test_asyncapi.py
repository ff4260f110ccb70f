from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator, Draft202012Validator

from flow_contracts.schema.asyncapi import asyncapi

Json = Any  # documents as json.load returns them

FOLDER = Path(__file__).parents[3] / "contracts" / "schema"
CHECKER = Path(__file__).parents[2] / "support" / "asyncapi"


@pytest.fixture(scope="module")
def document() -> Json:
    return json.loads((FOLDER / "asyncapi.json").read_text(encoding="utf-8"))


def references(node: Json) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from references(inner)


def resolve(document: Json, reference: str) -> Json:
    assert reference.startswith("#/")
    node = document
    for step in reference[2:].split("/"):
        node = node[step]
    return node


def test_every_reference_resolves(document: Json) -> None:
    all_references = list(references(document))
    assert len(all_references) > 10
    for reference in all_references:
        assert isinstance(resolve(document, reference), dict)


@pytest.mark.parametrize("validator", [Draft7Validator, Draft202012Validator])
@pytest.mark.parametrize("name", ["flowRequest", "flowResult"])
def test_every_example_fits_the_schemas_of_its_message(document: Json, name: str, validator: Json) -> None:
    message = document["components"]["messages"][name]
    payload = {**message["payload"], "components": document["components"]}
    for example in message["examples"]:
        validator(message["headers"]).validate(example["headers"])
        validator(payload).validate(example["payload"])
        assert not validator(payload).is_valid({})
        assert not validator(message["headers"]).is_valid({})


def test_request_and_result_share_correlation_id_and_session(document: Json) -> None:
    trait = document["components"]["messageTraits"]["correlated"]
    assert trait["correlationId"]["location"] == "$message.header#/properties/correlation-id"
    for name in ("flowRequest", "flowResult"):
        message = document["components"]["messages"][name]
        assert "correlation-id" in message["headers"]["properties"]["properties"]["properties"]
    request, result = (
        document["components"]["messages"][name]["examples"][0] for name in ("flowRequest", "flowResult")
    )
    assert result["headers"]["properties"]["correlation-id"] == request["headers"]["properties"]["correlation-id"]
    assert result["headers"]["properties"]["group-id"] == request["headers"]["properties"]["reply-to-group-id"]


def test_the_document_has_both_queues_and_the_request_operation(document: Json) -> None:
    assert {channel["address"] for channel in document["channels"].values()} == {"flow-requests", "flow-replies"}
    submit = document["operations"]["submitRequest"]
    assert submit["action"] == "send"
    assert resolve(document, submit["reply"]["channel"]["$ref"])["address"] == "flow-replies"


def check(file: Path) -> subprocess.CompletedProcess[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    if not (CHECKER / "node_modules" / "@asyncapi" / "parser").is_dir():
        pytest.skip("the AsyncAPI parser is not installed: npm install --ignore-scripts in tests/support/asyncapi")
    return subprocess.run(
        [node, "check.mjs", str(file)], cwd=CHECKER, capture_output=True, encoding="utf-8", timeout=50, check=False
    )


def test_the_reference_parser_of_asyncapi_finds_no_error() -> None:
    run = check(FOLDER / "asyncapi.json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout)["valid"] is True


def test_the_reference_parser_of_asyncapi_finds_an_error_in_a_broken_document(tmp_path: Path) -> None:
    broken = asyncapi()
    broken["operations"] = {"submitRequest": {"action": "shout", "channel": {"$ref": "#/channels/flowRequests"}}}
    (tmp_path / "broken.json").write_text(json.dumps(broken), encoding="utf-8")
    run = check(tmp_path / "broken.json")
    assert run.returncode == 1, run.stdout + run.stderr
    assert json.loads(run.stdout)["diagnostics"]
