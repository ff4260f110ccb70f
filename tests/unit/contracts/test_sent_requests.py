"""The key under which a client checks a result, also of a request that it forgot."""

from __future__ import annotations

from typing import Unpack

import pytest

from flow_contracts.client import sent_requests
from flow_contracts.client.request_builder import RequestOptions, build_request
from flow_contracts.client.sent_requests import SentRequests
from flow_contracts.reply_key import new_reply_key
from flow_contracts.request import FlowRequest


@pytest.fixture(autouse=True)
def _a_short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent_requests, "_MAX_REMEMBERED", 2)


def send(sent: SentRequests, **options: Unpack[RequestOptions]) -> FlowRequest:
    request = build_request("f", None, options, reply_to="r", key_for=sent.key_for)
    sent.remember(request)
    return request


def test_a_forgotten_request_has_the_key_that_was_sent() -> None:
    sent = SentRequests()
    first = send(sent)
    for _ in range(5):
        send(sent)
    assert sent.find(first.correlation_id, None, None).reply_key == first.reply_key
    assert sent.find(first.correlation_id, first.message_id, None).reply_key == first.reply_key
    again = send(sent, correlation_id=first.correlation_id, message_id=first.message_id)
    assert again.reply_key == first.reply_key


def test_a_forgotten_request_with_a_chosen_key_is_not_read_unchecked() -> None:
    sent, key = SentRequests(), new_reply_key()
    first = send(sent, correlation_id="c", message_id="m", reply_key=key)
    send(sent)
    send(sent)
    for message_id in (None, "m"):
        assert sent.find("c", message_id, None).reply_key not in {None, key}
        assert sent.find("c", message_id, key).reply_key == first.reply_key == key


def test_an_earlier_request_under_the_same_correlation_id_keeps_its_key() -> None:
    sent, key = SentRequests(), new_reply_key()
    send(sent, correlation_id="c", message_id="m", reply_key=key)
    last = send(sent, correlation_id="c", message_id="m-2")
    assert sent.find("c", "m", None).reply_key == key
    assert sent.find("c", None, None).message_id == "m-2"
    assert sent.find("c", None, None).reply_key == last.reply_key
    assert sent.find("c", "another's", None).reply_key is not None


def test_only_a_client_that_forgot_nothing_reads_requests_of_others_unchecked() -> None:
    sent, key = SentRequests(), new_reply_key()
    send(sent)
    send(sent)
    assert sent.find("another's", None, None).reply_key is None
    assert sent.find("another's", "m", None).reply_key is None
    send(sent)
    assert sent.find("another's", None, None).reply_key is not None
    assert sent.find("another's", None, key).reply_key == key
