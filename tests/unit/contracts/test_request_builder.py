from __future__ import annotations

from typing import Unpack

import pytest
from pydantic import SecretStr

from flow_contracts.client.request_builder import RequestOptions, build_request
from flow_contracts.client.sent_requests import SentRequests
from flow_contracts.reply_key import new_reply_key
from flow_contracts.request import FlowRequest, InvalidRequest


def test_ids_are_random_and_the_session_is_the_correlation_id() -> None:
    one, other = (build_request("f", None, {}, reply_to="replies", key_for=SentRequests().key_for) for _ in range(2))
    assert one.reply_to_session_id == one.correlation_id != one.message_id
    assert {one.message_id, one.correlation_id}.isdisjoint({other.message_id, other.correlation_id})


def test_the_senders_options_are_kept() -> None:
    request = build_request(
        "f",
        1,
        {"claim": "t", "message_id": "m", "correlation_id": "c"},
        reply_to="r",
        key_for=SentRequests().key_for,
        session_id="s",
    )
    assert (request.message_id, request.correlation_id, request.reply_to_session_id) == ("m", "c", "s")
    assert request.claim == SecretStr("t")


def test_an_invalid_request_is_refused_with_field_names_and_without_the_claim() -> None:
    with pytest.raises(InvalidRequest, match="field 'flow'") as refused:
        build_request(
            "", float("nan"), {"claim": SecretStr("s3cret" * 20_000)}, reply_to="r", key_for=SentRequests().key_for
        )
    assert "field 'claim'" in refused.value.message
    assert "field 'input'" in refused.value.message
    assert "s3cret" not in refused.value.message


def test_every_request_has_a_random_reply_key() -> None:
    sent = SentRequests()
    keys = {build_request("f", None, {}, reply_to="r", key_for=sent.key_for).reply_key for _ in range(2)}
    fixed: RequestOptions = {"correlation_id": "c"}
    keys |= {build_request("f", None, fixed, reply_to="r", key_for=SentRequests().key_for).reply_key for _ in range(2)}
    assert None not in keys
    assert len(keys) == 4, "another request and another client have another key"


def test_a_request_that_is_sent_again_keeps_its_key() -> None:
    """Duplicate detection may drop the second message: the result then belongs to the first."""
    sent, own = SentRequests(), new_reply_key()

    def built(**options: Unpack[RequestOptions]) -> FlowRequest:
        request = build_request("f", None, options, reply_to="r", key_for=sent.key_for)
        sent.remember(request)
        return request

    assert built(message_id="m", correlation_id="c", reply_key=own).reply_key == own
    default = built(message_id="m-2", correlation_id="c").reply_key
    assert default not in {own, None}
    assert built(message_id="m", correlation_id="c").reply_key == own
    assert built(message_id="m-2", correlation_id="c").reply_key == default
    assert built(message_id="m", correlation_id="c-2").reply_key not in {own, default, None}


def test_a_malformed_reply_key_is_refused_and_not_quoted() -> None:
    with pytest.raises(InvalidRequest, match="field 'reply_key': must be a string of 22") as refused:
        build_request("f", None, {"reply_key": "s3cret"}, reply_to="r", key_for=SentRequests().key_for)
    assert "s3cret" not in refused.value.message
