from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from flow_contracts.message import Message, fits_id
from flow_contracts.result import FlowError, FlowResult, InvalidResult, Status, UnsupportedResult, reply_message_id
from tests.unit.contracts.strategies import ids, results

DAY = timedelta(days=1)


def result(**fields: Any) -> FlowResult:  # Any: whatever FlowResult takes
    return FlowResult.model_validate(
        {"status": Status.SUCCEEDED, "flow": "f", "correlation_id": "c-1", "request_message_id": "m-1", **fields}
    )


@given(results)
def test_parsing_a_results_message_yields_the_same_result(result: FlowResult) -> None:
    assert FlowResult.from_message(result.to_message("s", DAY)) == result


def test_the_message_has_correlation_session_contract_and_status() -> None:
    message = result(status=Status.REFUSED).to_message("s-1", DAY)
    assert (message.correlation_id, message.session_id, message.time_to_live) == ("c-1", "s-1", DAY)
    assert message.content_type == "application/json"
    assert message.application_properties == {"contract": "flow-result/1", "status": "refused", "flow": "f"}


def test_the_result_of_an_unreadable_request_has_no_flow_property() -> None:
    assert "flow" not in result(flow=None).to_message("s", DAY).application_properties


@given(ids, ids, ids)
def test_the_message_id_of_a_reply_is_deterministic_and_short_enough(
    message_id: str, correlation_id: str, session: str
) -> None:
    reply_id = reply_message_id(message_id, correlation_id, session)
    assert reply_id == reply_message_id(message_id, correlation_id, session)
    assert fits_id(reply_id)


def test_replies_to_different_requests_have_different_message_ids() -> None:
    reply_ids = {reply_message_id(*key) for key in [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("c", "b", "a")]}
    assert len(reply_ids) == 4


def test_a_result_without_output_keeps_all_other_fields_and_reports_its_size() -> None:
    large = result(output="x" * 5000, output_type="text/plain", output_encoding="text", http_status=200)
    small = large.without_output()
    assert small.error is not None
    assert small.error.code == "output_too_large"
    assert str(len(large.to_message("s", DAY).body)) in small.error.message
    assert (small.output, small.output_encoding) == (None, None)
    assert (small.status, small.http_status, small.output_type) == (Status.SUCCEEDED, 200, "text/plain")
    assert len(small.to_message("s", DAY).body) < 1000


def test_a_result_without_output_keeps_an_earlier_error() -> None:
    error = FlowError(code="http_500", message="The flow answered 500.")
    assert result(status=Status.FAILED, error=error, output="x").without_output().error == error


def test_unknown_fields_of_later_versions_are_ignored() -> None:
    message = result().to_message("s", DAY)
    later = json.dumps({**json.loads(message.body), "cost": 3, "error": {"code": "c", "message": "m", "hint": "h"}})
    read = FlowResult.from_message(dataclasses.replace(message, body=later.encode()))
    assert read.error == FlowError(code="c", message="m")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"status": "done"}, "'status'"),
        ({"attempts": "3"}, "'attempts'"),
        ({"attempts": -1}, "'attempts'"),
        ({"times": {"accepted": 1700000000}}, "'times.accepted'"),
        ({"times": {"accepted": "2026-03-02T09:30:00"}}, "'times.accepted'"),
        ({"output_encoding": "hex"}, "'output_encoding'"),
        ({"correlation_id": None}, "'correlation_id'"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(change: dict[str, Any], problem: str) -> None:  # Any: also wrong types
    message = result().to_message("s", DAY)
    body = json.dumps({**json.loads(message.body), **change}).encode()
    with pytest.raises(InvalidResult, match=problem):
        FlowResult.from_message(dataclasses.replace(message, body=body))


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"{}", b"[" * 9999])
def test_a_body_that_is_no_result_is_refused(body: bytes) -> None:
    message = result().to_message("s", DAY)
    with pytest.raises(InvalidResult, match="the body"):
        FlowResult.from_message(dataclasses.replace(message, body=body))


def test_another_contract_is_refused() -> None:
    with pytest.raises(InvalidResult, match="flow-result/1"):
        FlowResult.from_message(Message(body=result().to_message("s", DAY).body))


def test_a_result_that_json_cannot_express_cannot_be_built() -> None:
    with pytest.raises(ValidationError):
        result(output=float("inf"))


def test_a_result_with_a_later_contract_names_both_versions() -> None:
    message = result().to_message("s", DAY)
    later = dataclasses.replace(message, application_properties={"contract": "flow-result/2"}, body=b"\x00")
    with pytest.raises(UnsupportedResult, match=r"'flow-result/2'.*reads 'flow-result/1'.*upgrade flow-contracts"):
        FlowResult.from_message(later)


@pytest.mark.parametrize(("field", "value"), [("status", "compensated"), ("output_encoding", "cbor")])
def test_a_result_with_a_later_value_names_the_value_and_this_version(field: str, value: str) -> None:
    message = result().to_message("s", DAY)
    body = json.dumps({**json.loads(message.body), field: value}).encode()
    with pytest.raises(UnsupportedResult, match=rf"'{field}' \('{value}'\).*reads 'flow-result/1'"):
        FlowResult.from_message(dataclasses.replace(message, body=body))


@pytest.mark.parametrize("contract", [None, "flow-request/1", "flow-result/", "flow-result/2/3", 2])
def test_a_message_of_no_version_is_no_unsupported_result(contract: str | int | None) -> None:
    message = dataclasses.replace(result().to_message("s", DAY), application_properties={"contract": contract})
    with pytest.raises(InvalidResult) as error:
        FlowResult.from_message(message)
    assert not isinstance(error.value, UnsupportedResult)
