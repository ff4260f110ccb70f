"""The reply key of a request, and the MAC of its result."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from flow_contracts.message import Message
from flow_contracts.reply_key import is_authentic, is_signed, new_reply_key
from flow_contracts.request import FlowRequest, InvalidRequest, ReplyAddress
from flow_contracts.result import FlowResult, Status, reply_message_id

DAY = timedelta(days=1)
KEY = SecretStr("k" * 21 + "-_9")
REQUEST = FlowRequest(flow="f", message_id="m", correlation_id="c", reply_to_session_id="s", reply_key=KEY)
RESULT = FlowResult(status=Status.SUCCEEDED, flow="f", output="Zürich\n", correlation_id="c", request_message_id="m")
SIGNED = RESULT.to_message("s", DAY, reply_key=KEY)


def changed(**properties: Any) -> Message:
    return replace(SIGNED, application_properties={**SIGNED.application_properties, **properties})


def test_a_new_key_is_random_and_fits_the_form() -> None:
    one, other = new_reply_key(), new_reply_key()
    assert one != other
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", one.get_secret_value())


def test_a_request_carries_its_key_as_a_property_and_never_in_its_body() -> None:
    message = REQUEST.to_message()
    assert message.application_properties["reply_key"] == KEY.get_secret_value()
    assert KEY.get_secret_value().encode() not in message.body
    read = FlowRequest.from_message(message)
    assert read.reply_key == read.address.reply_key == KEY
    assert (
        FlowRequest.from_message(replace(message, application_properties={"contract": "flow-request/1"})).reply_key
        is None
    )


def test_no_representation_shows_the_key() -> None:
    read = FlowRequest.from_message(REQUEST.to_message())
    shown = f"{read!r} {read} {read.address!r} {read.model_dump_json()} {read.model_dump()}"
    assert KEY.get_secret_value() not in shown


@pytest.mark.parametrize("key", ["", "short", "k" * 21, "k" * 129, "k" * 30 + "=", "k" * 30 + "\n", "ü" * 30, 7, True])
def test_a_malformed_key_is_refused_by_name_and_not_quoted(key: str | int) -> None:
    sent = replace(REQUEST.to_message(), application_properties={"contract": "flow-request/1", "reply_key": key})
    with pytest.raises(InvalidRequest, match=r"'reply_key' must be a string of 22 to 128") as refused:
        FlowRequest.from_message(sent)
    assert refused.value.code == "malformed_request"
    assert not isinstance(key, str) or len(key) < 20 or key not in refused.value.message
    assert ReplyAddress.of(sent).reply_key is None


def test_a_result_has_the_mac_that_a_sender_in_any_language_computes() -> None:
    text = f"flow-result/1\n{SIGNED.message_id}\n".encode() + SIGNED.body
    mac = hmac.new(KEY.get_secret_value().encode(), text, hashlib.sha256).hexdigest()
    assert SIGNED.application_properties["reply_mac"] == mac
    assert is_authentic(SIGNED, KEY)
    assert SIGNED.body.count(b"\n") == 0, "the form of the text is unambiguous only without line feeds"


@pytest.mark.parametrize(
    "forged",
    [
        RESULT.to_message("s", DAY),
        RESULT.to_message("s", DAY, reply_key=new_reply_key()),
        replace(SIGNED, body=SIGNED.body.replace(b"succeeded", b"refused")),
        replace(SIGNED, message_id="result-0"),
        replace(SIGNED, message_id=None),
        replace(SIGNED, message_id=f"{SIGNED.message_id}\n{SIGNED.body.decode()}", body=b""),
        changed(reply_mac=None),
        changed(reply_mac=""),
        changed(reply_mac=0),
        changed(reply_mac="ü" * 64),
        changed(reply_mac="\ud800"),
        changed(reply_mac=str(SIGNED.application_properties["reply_mac"]).upper()),
        changed(contract="flow-result/2"),
        changed(contract=None),
        changed(contract="flow-result-id/1", reply_mac=str(SIGNED.message_id).removeprefix("result-")),
    ],
)
def test_a_forged_or_altered_result_is_not_authentic(forged: Message) -> None:
    assert not is_authentic(forged, KEY)


def test_the_message_id_of_a_result_does_not_work_as_a_mac() -> None:
    """The ID is public, and is made with the same key."""
    identity = b'["m","c","s"]'
    mac = str(reply_message_id("m", "c", "s", reply_key=KEY)).removeprefix("result-")
    forged = Message(body=b"", message_id=identity.decode(), application_properties={"contract": "flow-result-id/1"})
    forged = replace(forged, application_properties={**forged.application_properties, "reply_mac": mac})
    assert is_signed(forged)
    assert not is_authentic(forged, KEY)


def test_the_message_id_of_a_result_depends_on_the_key() -> None:
    ids = {reply_message_id("m", "c", "s", reply_key=key) for key in (None, KEY, new_reply_key())}
    assert len(ids) == 3
    assert reply_message_id("m", "c", "s", reply_key=KEY) == SIGNED.message_id
    assert reply_message_id("m", "c", "s", "v", reply_key=KEY) != SIGNED.message_id


def test_a_result_without_a_key_has_no_mac() -> None:
    assert not is_signed(RESULT.to_message("s", DAY))
