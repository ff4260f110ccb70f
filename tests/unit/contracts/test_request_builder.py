from __future__ import annotations

import pytest
from pydantic import SecretStr

from flow_contracts.client.request_builder import RequestOptions, build_request
from flow_contracts.client.sent_requests import SentRequest
from flow_contracts.reply_key import new_reply_key
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


def test_every_request_has_a_random_reply_key() -> None:
    one, other = (build_request("f", None, {}, reply_to="r").reply_key for _ in range(2))
    assert None not in {one, other}
    assert one != other


def test_a_request_that_is_sent_again_keeps_its_key() -> None:
    """Duplicate detection may drop the second message: the result then belongs to the first."""
    earlier = SentRequest("m", new_reply_key())
    again: RequestOptions = {"message_id": "m", "correlation_id": "c"}
    assert build_request("f", None, again, reply_to="r", earlier=earlier).reply_key == earlier.reply_key
    another: RequestOptions = {"message_id": "m-2", "correlation_id": "c"}
    assert build_request("f", None, another, reply_to="r", earlier=earlier).reply_key != earlier.reply_key
    assert build_request("f", None, {"correlation_id": "c"}, reply_to="r", earlier=earlier).reply_key is not None
    own = new_reply_key()
    chosen: RequestOptions = {"message_id": "m", "reply_key": own}
    assert build_request("f", None, chosen, reply_to="r", earlier=earlier).reply_key == own


def test_a_malformed_reply_key_is_refused_and_not_quoted() -> None:
    with pytest.raises(InvalidRequest, match="field 'reply_key': must be a string of 22") as refused:
        build_request("f", None, {"reply_key": "s3cret"}, reply_to="r")
    assert "s3cret" not in refused.value.message
