from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from flow_contracts.message import Message
from flow_contracts.request import CONTRACT, FlowRequest, InvalidRequest, ReplyAddress, Unanswerable
from flow_contracts.request_body import MAX_BODY_BYTES
from tests.unit.contracts.strategies import requests

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def message(body: bytes = b'{"flow": "create-quote"}', **fields: Any) -> Message:  # Any: whatever Message takes
    fields.setdefault("message_id", "m-1")
    fields.setdefault("application_properties", {"contract": CONTRACT})
    return Message(body=body, **fields)


@given(requests)
def test_parsing_a_requests_message_yields_the_same_request(request: FlowRequest) -> None:
    assert FlowRequest.from_message(request.to_message()) == request


def test_the_message_has_subject_content_type_and_contract() -> None:
    sent = FlowRequest.from_message(message(correlation_id="c-1")).to_message()
    assert sent.subject == "create-quote"
    assert sent.content_type == "application/json"
    assert sent.application_properties == {"contract": "flow-request/1"}


def test_the_correlation_id_defaults_to_the_message_id_and_the_session_to_the_correlation_id() -> None:
    assert ReplyAddress.of(message()) == ReplyAddress("m-1", "m-1", "m-1", None)
    assert ReplyAddress.of(message(correlation_id="c-1")) == ReplyAddress("m-1", "c-1", "c-1", None)
    full = message(correlation_id="c-1", reply_to_session_id="s-1", reply_to="replies-2")
    assert ReplyAddress.of(full) == ReplyAddress("m-1", "c-1", "s-1", "replies-2")
    assert FlowRequest.from_message(full).address == ReplyAddress.of(full)


@pytest.mark.parametrize("missing", [None, ""])
def test_a_request_without_a_message_id_cannot_be_answered(missing: str | None) -> None:
    with pytest.raises(Unanswerable) as unanswerable:
        FlowRequest.from_message(message(message_id=missing))
    assert unanswerable.value.reason == "message_id_missing"


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("message_id", "message_id_too_long"),
        ("correlation_id", "correlation_id_too_long"),
        ("reply_to_session_id", "reply_to_session_id_too_long"),
    ],
)
def test_a_request_with_an_id_beyond_128_characters_cannot_be_answered(field: str, reason: str) -> None:
    fitting: dict[str, Any] = {field: "x" * 128}  # Any: replace() takes fields of every type
    too_long: dict[str, Any] = {field: "x" * 129}
    ReplyAddress.of(dataclasses.replace(message(), **fitting))
    with pytest.raises(Unanswerable) as unanswerable:
        ReplyAddress.of(dataclasses.replace(message(), **too_long))
    assert unanswerable.value.reason == reason


def test_id_length_counts_utf_16_code_units_as_service_bus_does() -> None:
    ReplyAddress.of(message(message_id="😀" * 64))
    with pytest.raises(Unanswerable):
        ReplyAddress.of(message(message_id="😀" * 65))


@pytest.mark.parametrize("properties", [{}, {"contract": None}, {"contract": "flow-request/2"}, {"contract": 1}])
def test_a_message_of_another_contract_is_refused_with_the_expected_name(
    properties: dict[str, Any],
) -> None:  # Any: also wrong types
    with pytest.raises(InvalidRequest) as refused:
        FlowRequest.from_message(message(application_properties=properties))
    assert refused.value.code == "unsupported_contract"
    assert "'contract' must be 'flow-request/1'" in refused.value.message


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "field 'flow': Field required"),
        (b'{"flow": ""}', "field 'flow'"),
        (b'{"flow": 7}', "field 'flow'"),
        (b'{"flow": "' + b"x" * 129 + b'"}', "field 'flow'"),
        (b'{"flow": "f", "inptu": 1}', "unknown field 'inptu' (allowed: flow, input, claim, on_behalf_of)"),
        (b'{"flow": "f", "message_id": "m-2"}', "unknown field 'message_id'"),
        (b'{"flow": "f", "flow": "g"}', "duplicate key"),
        (b'{"flow": "f", "claim": ""}', "field 'claim'"),
        (b'{"flow": "f", "on_behalf_of": {}}', "field 'on_behalf_of'"),
        (b" " * (MAX_BODY_BYTES + 1), "more than the"),
        (b'{"flow": "f", "input": [' + b"[]," * 50_000 + b"[]]}", "has more than 50000 values"),
        (b'{"flow": "f", "input": ' + b"9" * 310 + b"}", "too many digits"),
        (b"{" + b",".join(b'"k%d":1' % n for n in range(40_000)) + b"}", "unknown field 'k0'"),
    ],
)
def test_a_malformed_body_is_refused_with_the_name_of_the_invalid_field(body: bytes, problem: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        FlowRequest.from_message(message(body))
    assert refused.value.code == "malformed_request"
    assert problem in refused.value.message


@given(st.binary(max_size=200))
def test_every_body_yields_a_request_or_an_invalid_request_error(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert FlowRequest.from_message(message(body)).flow


@pytest.mark.parametrize(
    "body",
    [
        b'{"flow": "f", "claim": ["s3cret"]}',
        b'{"flow": "f", "claim": {"token": "s3cret"}}',
        b'{"flow": ["s3cret"], "input": "s3cret", "claim": "s3cret"}',
        b'{"flow": "f", "claim": "s3cret", "x": 1}',
        b'{"flow": "f", "claim": "s3cret"',
    ],
)
def test_a_refusal_quotes_neither_claim_nor_input(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        FlowRequest.from_message(message(body))
    assert "s3cret" not in refused.value.message
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_representations_show_neither_claim_nor_input_nor_body() -> None:
    request = FlowRequest(
        flow="f",
        input="inp-s3cret",
        claim=SecretStr("claim-s3cret"),
        message_id="m",
        correlation_id="c",
        reply_to_session_id="s",
    )
    assert "s3cret" not in repr(request) + str(request) + repr(request.to_message())


def test_a_request_that_its_own_message_could_not_express_cannot_be_built() -> None:
    good = {"flow": "f", "message_id": "m", "correlation_id": "c", "reply_to_session_id": "s"}
    wrong: list[dict[str, Any]] = [{"message_id": "x" * 129}, {"correlation_id": ""}, {"flow": ""}]
    wrong += [{"input": float("nan")}, {"input": [[]] * 25_000}]
    for bad in wrong:
        with pytest.raises(ValidationError):
            FlowRequest.model_validate({**good, **bad})


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"traceparent": TRACE}, TRACE),
        ({"Diagnostic-Id": TRACE}, TRACE),
        ({"traceparent": "nonsense", "Diagnostic-Id": TRACE}, TRACE),
        ({"traceparent": TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)}, None),
        ({"traceparent": f"{TRACE}\r\nx-evil: 1"}, None),
        ({"traceparent": 7}, None),
        ({"traceparent": f"cc{TRACE[2:]}"}, TRACE),
        ({"traceparent": f"cc{TRACE[2:]}-what-the-future-holds"}, TRACE),
        ({"traceparent": f"cc{TRACE[2:]}.what"}, None),
        ({"traceparent": f"cc{TRACE[2:]}-\r\nx-evil: 1"}, None),
        ({"traceparent": f"ff{TRACE[2:]}-x"}, None),
        ({"traceparent": f"{TRACE}-x"}, None),
        ({}, None),
    ],
)
def test_only_a_well_formed_trace_context_is_kept(
    properties: dict[str, Any], expected: str | None
) -> None:  # Any: see above
    received = message(application_properties={"contract": CONTRACT, **properties})
    assert FlowRequest.from_message(received).traceparent == expected


def test_the_content_type_of_a_request_does_not_matter() -> None:
    plain = dataclasses.replace(message(), content_type="text/plain")
    assert FlowRequest.from_message(plain).flow == "create-quote"


def test_what_was_parsed_is_not_validated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flow_contracts.strict_json.validate", lambda *_, **__: pytest.fail("validated again"))
    assert FlowRequest.from_message(message(b'{"flow": "f", "input": [1]}')).input == [1]
