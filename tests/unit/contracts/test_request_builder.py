from __future__ import annotations

import pytest
from pydantic import SecretStr

from flow_contracts.client.request_builder import build_request
from flow_contracts.request import InvalidRequest


def test_ids_are_random_and_the_session_is_the_correlation_id() -> None:
    one, other = (build_request("f", None, {}, reply_to="replies") for _ in range(2))
    assert one.reply_to_session_id == one.correlation_id != one.message_id
    assert {one.message_id, one.correlation_id}.isdisjoint({other.message_id, other.correlation_id})


def test_the_senders_options_are_kept() -> None:
    request = build_request(
        "f", 1, {"claim": "t", "message_id": "m", "correlation_id": "c"}, reply_to="r", session_id="s"
    )
    assert (request.message_id, request.correlation_id, request.reply_to_session_id) == ("m", "c", "s")
    assert request.claim == SecretStr("t")


def test_an_invalid_request_is_refused_with_field_names_and_without_the_claim() -> None:
    with pytest.raises(InvalidRequest, match="field 'flow'") as refused:
        build_request("", float("nan"), {"claim": SecretStr("s3cret" * 20_000)}, reply_to="r")
    assert "field 'claim'" in refused.value.message
    assert "field 'input'" in refused.value.message
    assert "s3cret" not in refused.value.message
