"""Service Bus ignores the case of queue names, and HTTP that of headers: so does the worker."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import SecretStr

from flow_contracts.message import Message
from flow_contracts.reply_key import new_reply_key
from flow_contracts.request import FlowRequest, ReplyAddress
from flow_worker.pipeline.conclude import ConclusionRules
from flow_worker.settings import RetrySettings

KEY = new_reply_key()


@pytest.mark.parametrize(
    ("asked", "queue"),
    [
        ("Flow-Replies", "flow-replies"),
        ("FLOW-REPLIES", "flow-replies"),
        ("other-replies", "Other-Replies"),
        ("Other-Replies", "Other-Replies"),
        ("unknown", "flow-replies"),
        (None, "flow-replies"),
    ],
)
def test_a_reply_queue_is_found_in_any_case_and_named_as_in_the_settings(asked: str | None, queue: str) -> None:
    rules = ConclusionRules(("flow-replies", "Other-Replies"), "flow-replies", RetrySettings(), timedelta())
    assert rules.reply_queue(ReplyAddress("m", "c", "s", asked), "flow-requests") == queue


@pytest.mark.parametrize("change", [str, str.upper, str.title, str.lower])
def test_a_requests_properties_are_headers_in_any_case(change: type[str]) -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    properties = {"contract": "flow-request/1", "reply_key": KEY.get_secret_value(), "traceparent": trace}
    message = Message(
        body=b'{"flow": "f"}',
        message_id="m",
        application_properties={change(name): value for name, value in properties.items()},
    )
    request = FlowRequest.from_message(message)
    assert isinstance(request.reply_key, SecretStr)
    assert request.reply_key.get_secret_value() == KEY.get_secret_value()
    assert request.traceparent == trace
