from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from flow_contracts.message import Message
from flow_contracts.request import CONTRACT as REQUEST_CONTRACT
from flow_contracts.request import FlowRequest, InvalidRequest
from flow_contracts.result import CONTRACT as RESULT_CONTRACT
from flow_contracts.result import FlowResult, InvalidResult
from flow_contracts.schema.__main__ import documents, main, stale
from flow_contracts.schema.json_schemas import request_schema, result_schema
from tests.unit.contracts.strategies import requests, results

FOLDER = Path(__file__).parents[3] / "contracts" / "schema"

Json = dict[str, Any]  # Any: valid and invalid bodies

REQUEST = Draft202012Validator(request_schema())
RESULT = Draft202012Validator(result_schema())


def reads_request(body: object) -> bool:
    message = Message(
        body=json.dumps(body).encode(), message_id="m", application_properties={"contract": REQUEST_CONTRACT}
    )
    try:
        FlowRequest.from_message(message)
    except InvalidRequest:
        return False
    return True


def reads_result(body: object) -> bool:
    message = Message(body=json.dumps(body).encode(), application_properties={"contract": RESULT_CONTRACT})
    try:
        FlowResult.from_message(message)
    except InvalidResult:
        return False
    return True


def test_the_committed_documents_match_the_models() -> None:
    assert stale(FOLDER) == [], "run `make schema` and commit the result"


def test_the_command_writes_the_documents_and_reports_a_stale_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = [str(tmp_path)]
    assert main(["--check", *folder]) == 1
    assert capsys.readouterr().err.count("is out of date") == 3
    assert main(folder) == 0
    assert main(["--check", *folder]) == 0
    (tmp_path / "asyncapi.json").write_text("{}")
    assert main(["--check", *folder]) == 1
    assert "asyncapi.json" in capsys.readouterr().err


def test_documents_have_unix_line_endings_and_windows_line_endings_are_not_stale(tmp_path: Path) -> None:
    main([str(tmp_path)])
    for name in documents():
        written = (tmp_path / name).read_bytes()
        assert b"\r" not in written
        (tmp_path / name).write_bytes(written.replace(b"\n", b"\r\n"))
    assert stale(tmp_path) == []


@pytest.mark.parametrize("schema", [request_schema(), result_schema()])
def test_a_schema_is_valid_draft_2020_12_with_name_title_and_examples(schema: Json) -> None:
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].startswith("urn:flow-worker:")
    assert schema["title"]
    assert schema["examples"]
    for name, field in schema["properties"].items():
        assert "description" in field or "$ref" in field, f"{name} has no description"
    for example in schema["examples"]:
        Draft202012Validator(schema).validate(example)


@given(requests)
def test_the_schema_accepts_every_request_the_model_writes(request: FlowRequest) -> None:
    REQUEST.validate(json.loads(request.to_message().body))


@given(results)
def test_the_schema_accepts_every_result_the_model_writes(result: FlowResult) -> None:
    RESULT.validate(json.loads(result._body()))


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        ({"flow": "f"}, True),
        ({"flow": "f", "input": None, "claim": None, "on_behalf_of": None}, True),
        ({"flow": "f", "input": [1, {"a": None}]}, True),
        ({"flow": "x" * 128}, True),
        ({"flow": "x" * 129}, False),
        ({"flow": ""}, False),
        ({"flow": None}, False),
        ({"flow": 1}, False),
        ({}, False),
        ([], False),
        ("f", False),
        ({"flow": "f", "claim": ""}, False),
        ({"flow": "f", "claim": 1}, False),
        ({"flow": "f", "claim": "x" * 65537}, False),
        ({"flow": "f", "on_behalf_of": ""}, False),
        ({"flow": "f", "extra": 1}, False),
    ],
)
def test_schema_and_model_agree_on_requests(body: object, valid: bool) -> None:
    assert REQUEST.is_valid(body) is valid
    assert reads_request(body) is valid


_RESULT: Json = {"status": "succeeded", "correlation_id": "c", "request_message_id": "m"}


@pytest.mark.parametrize(
    ("body", "valid"),
    [
        (_RESULT, True),
        ({**_RESULT, "later": 1}, True),
        ({**_RESULT, "output": {"a": [None]}, "output_encoding": "json"}, True),
        ({**_RESULT, "error": {"code": "c", "message": ""}}, True),
        ({**_RESULT, "error": {"code": "", "message": ""}}, False),
        ({**_RESULT, "error": {"code": "c"}}, False),
        ({**_RESULT, "error": {"code": "c", "message": "m", "retryable": "no"}}, False),
        ({**_RESULT, "times": {"accepted": "2026-03-02T09:30:00Z"}}, True),
        ({**_RESULT, "times": {"accepted": 1}}, False),
        ({**_RESULT, "times": None}, False),
        ({**_RESULT, "run": {"tracking": {"x-ms-a": "1"}}}, True),
        ({**_RESULT, "run": {"tracking": {"x-ms-a": 1}}}, False),
        ({**_RESULT, "status": "done"}, False),
        ({**_RESULT, "attempts": -1}, False),
        ({**_RESULT, "attempts": "1"}, False),
        ({**_RESULT, "http_status": "200"}, False),
        ({**_RESULT, "output_encoding": "hex"}, False),
        ({**_RESULT, "correlation_id": ""}, False),
        ({}, False),
        ([], False),
    ],
)
def test_schema_and_model_agree_on_results(body: object, valid: bool) -> None:
    assert RESULT.is_valid(body) is valid
    assert reads_result(body) is valid
