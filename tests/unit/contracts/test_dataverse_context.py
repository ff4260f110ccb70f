from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from flow_contracts.dataverse import ExecutionContext
from flow_contracts.message import Message
from flow_contracts.request import InvalidRequest, ReplyAddress, Unanswerable
from flow_contracts.request_body import MAX_BODY_BYTES
from tests.unit.contracts.dataverse_samples import (
    CONTACT,
    CORRELATION,
    JOB,
    ORGANIZATION,
    REQUEST,
    SYSTEM_USER,
    USER,
    ZEROS,
    custom_api,
    entity,
    pairs,
    posted,
    reference,
    typed,
    update,
)
from tests.unit.contracts.strategies import json_values

SECRET = "s3cret"


def read(context: dict[str, Any], **fields: Any) -> ExecutionContext:  # Any: whatever Message takes
    return ExecutionContext.from_message(posted(context, **fields))


def refusal(message: Message) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        ExecutionContext.from_message(message)
    return refused.value


def without(context: dict[str, Any], member: str) -> dict[str, Any]:
    return {name: value for name, value in context.items() if name != member}


# --- decoding -------------------------------------------------------------------------------------------------------


def test_an_update_is_decoded_fully() -> None:
    context = read(update())
    assert (context.message_name, context.primary_entity, context.primary_entity_id) == ("Update", "contact", CONTACT)
    assert (context.organization_id, context.organization_name) == (ORGANIZATION, "contoso")
    assert (context.stage, context.mode, context.depth) == (40, 1, 1)
    assert (context.correlation_id, context.operation_id, context.request_id) == (CORRELATION, JOB, None)
    assert context.operation_created_on == datetime(2024, 8, 2, 7, 0, 39, tzinfo=UTC)
    assert (context.initiating_user_oid, context.initiating_user_id) == (USER, SYSTEM_USER)
    assert context.shared_variables == {"IsAutoTransact": True}
    assert context.input == {
        "Target": {
            "@id": CONTACT,
            "@logicalName": "contact",
            "contactid": CONTACT,
            "firstname": "James",
            "modifiedon": "2017-09-26T00:04:07.000Z",
            "statecode": 0,
            "modifiedby": {"id": SYSTEM_USER, "logicalName": "systemuser", "name": None},
        }
    }


def test_the_parameters_of_a_custom_api_become_the_flows_input() -> None:
    context = read(custom_api(Customer="Contoso", Amount=5, Account=reference("account", CONTACT)))
    assert (context.message_name, context.primary_entity, context.primary_entity_id) == ("new_StartQuote", "", None)
    assert (context.operation_id, context.operation_created_on, context.request_id) == (None, None, REQUEST)
    request = context.to_request("create-quote", reply_to="results")
    account = {"id": CONTACT, "logicalName": "account", "name": None}
    assert request.input == {"Customer": "Contoso", "Amount": 5, "Account": account}
    assert (request.flow, request.reply_to) == ("create-quote", "results")
    assert request.claim is None
    assert request.on_behalf_of is None


def test_an_operation_without_parameters_has_an_empty_input() -> None:
    assert read(custom_api()).input == {}


@pytest.mark.parametrize("oid", [ZEROS, None])
def test_a_user_without_an_object_id_still_has_a_system_user_id(oid: str | None) -> None:
    context = read(update(InitiatingUserAzureActiveDirectoryObjectId=oid))
    assert (context.initiating_user_oid, context.initiating_user_id) == (None, SYSTEM_USER)


def test_the_object_id_may_be_missing_as_in_older_versions_of_dataverse() -> None:
    assert read(without(update(), "InitiatingUserAzureActiveDirectoryObjectId")).initiating_user_oid is None


def test_the_user_is_the_initiating_user_not_the_steps_user() -> None:
    other = "11111111-2222-4333-8444-555555555555"
    context = read(update(UserId=other, UserAzureActiveDirectoryObjectId=other))
    assert (context.initiating_user_oid, context.initiating_user_id) == (USER, SYSTEM_USER)


@pytest.mark.parametrize("content_type", [None, "application/json", "Application/JSON; charset=utf-8"])
def test_json_is_parsed_with_a_json_content_type_or_without_one(content_type: str | None) -> None:
    assert read(update(), content_type=content_type).message_name == "Update"


def test_a_byte_order_mark_before_the_context_is_ignored() -> None:
    bare = posted(update(), content_type=None)
    assert ExecutionContext.from_message(Message(body=b"\xef\xbb\xbf" + bare.body)).message_name == "Update"


def test_broker_properties_that_repeat_the_body_are_ignored() -> None:
    claims = "http://schemas.microsoft.com/xrm/2011/Claims/"
    forged = {f"{claims}InitiatingUser": "admin", f"{claims}Organization": "other", f"{claims}RequestName": "Delete"}
    broker = {"correlation_id": "c", "reply_to": "elsewhere", "reply_to_session_id": "s", "session_id": "s"}
    assert read(update(), application_properties=forged, **broker) == read(update())


def test_the_representation_of_a_context_does_not_contain_the_input() -> None:
    shown = repr(read(custom_api(Password=SECRET)))
    assert SECRET not in shown
    assert CORRELATION in shown


# --- the message ID -------------------------------------------------------------------------------------------------


def message_id(context: dict[str, Any], **fields: Any) -> str:  # Any: whatever Message takes
    return read(context, **fields).to_request("create-quote").message_id


def test_a_system_job_that_posts_again_has_the_same_message_id() -> None:
    again = message_id(update(Depth=2, SharedVariables=[]), message_id="m-2")
    assert again == message_id(update(), message_id="m-1") == message_id(update())


def test_another_job_of_the_same_request_has_another_message_id() -> None:
    assert message_id(update(OperationId=REQUEST)) != message_id(update())


def test_the_same_job_in_a_copied_organization_has_another_message_id() -> None:
    assert message_id(update(OrganizationId=REQUEST)) != message_id(update())


def test_synchronous_posts_that_share_all_ids_have_different_message_ids() -> None:
    assert message_id(custom_api(Amount=5)) != message_id(custom_api(Amount=6))
    assert message_id(custom_api(Amount=5), message_id="m-1") != message_id(custom_api(Amount=5), message_id="m-2")


def test_a_redelivered_synchronous_post_has_the_same_message_id() -> None:
    assert message_id(custom_api(Amount=5)) == message_id(custom_api(Amount=5))
    assert message_id(custom_api(Amount=5), message_id="m-1") == message_id(custom_api(Amount=5), message_id="m-1")


def test_the_message_id_of_a_synchronous_post_ignores_its_job_id() -> None:
    # The ID may be that of the enclosing job, which may post more than once.
    assert message_id(custom_api(Amount=5) | {"OperationId": JOB}) != message_id(
        custom_api(Amount=6) | {"OperationId": JOB}
    )


def test_asynchronous_posts_without_a_job_have_different_message_ids() -> None:
    assert message_id(update(OperationId=ZEROS)) != message_id(update(OperationId=ZEROS, PrimaryEntityId=None))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, CORRELATION),
        ({"CorrelationId": CORRELATION.upper()}, CORRELATION),
        ({"CorrelationId": ZEROS, "RequestId": REQUEST}, REQUEST),
        ({"CorrelationId": None, "RequestId": ZEROS}, JOB),
    ],
)
def test_the_correlation_id_falls_back_to_request_id_and_operation_id(changed: dict[str, Any], expected: str) -> None:
    request = read(update(**changed)).to_request("create-quote")
    assert request.correlation_id == request.reply_to_session_id == expected


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["MessageMaxSizeExceeded", "http://schemas.microsoft.com/xrm/2011/Claims/MessageMaxSizeExceeded"],
)
@pytest.mark.parametrize("value", [True, "true", "", None])
def test_a_truncated_message_is_refused_with_its_reply_address(name: str, value: object) -> None:
    truncated = posted(without(update(), "InputParameters"), application_properties={name: value})
    refused = refusal(truncated)
    assert refused.code == "input_truncated"
    whole = read(update()).to_request("create-quote")
    assert refused.address == whole.address


@pytest.mark.parametrize(
    ("content_type", "body", "form"),
    [
        ("application/msbin1", b"@\x15RemoteExecutionContext", "binary"),
        (None, b"@\x15RemoteExecutionContext", "binary"),
        ("application/xml", b"<RemoteExecutionContext/>", "XML"),
        ("text/xml; charset=utf-8", b"<RemoteExecutionContext/>", "XML"),
        (None, b"\xef\xbb\xbf <RemoteExecutionContext/>", "XML"),
        ("text/plain", b"{}", "JSON"),
    ],
)
def test_a_format_other_than_json_is_refused_with_the_setting_to_change(
    content_type: str | None, body: bytes, form: str
) -> None:
    refused = refusal(Message(body=body, content_type=content_type, message_id="m-1"))
    assert refused.code == "unsupported_format"
    assert form in refused.message
    assert "Message Format to JSON" in refused.message
    assert refused.address == ReplyAddress("m-1", "m-1", "m-1", None)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(body=b"@\x15Remote", content_type="application/msbin1"), "unsupported_format"),
        (Message(body=b""), "malformed_request"),
        (Message(body=b"[]"), "malformed_request"),
        (Message(body=b"{}", message_id="x" * 129), "malformed_request"),
        (posted(update(CorrelationId=ZEROS, OperationId=None)), "malformed_request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_without_a_reply_address_is_unanswerable_with_a_reason(message: Message, reason: str) -> None:
    with pytest.raises(Unanswerable) as unanswerable:
        ExecutionContext.from_message(message)
    assert unanswerable.value.reason == reason
    assert "message ID" not in unanswerable.value.description


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{",
        b"\xff",
        b'{"Mode": 1, "Mode": 1}',
        b'{"Depth": NaN}',
        b"[" * 100_000,
        b'{"a":' * 101 + b"1" + b"}" * 101,
        b'"' + b"x" * MAX_BODY_BYTES + b'"',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    assert refusal(Message(body=body, content_type="application/json", message_id="m-1")).code == "malformed_request"


TWICE = pairs(Amount=5) + pairs(Amount=SECRET)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("MessageName", None),
        ("MessageName", ""),
        ("MessageName", "x" * 257),
        ("PrimaryEntityName", 7),
        ("PrimaryEntityId", SECRET),
        ("OrganizationId", None),
        ("OrganizationId", ZEROS),
        ("OrganizationName", [SECRET]),
        ("Stage", "40"),
        ("Mode", 2),
        ("Mode", True),
        ("Mode", None),
        ("Depth", 1.5),
        ("OperationId", {}),
        ("OperationCreatedOn", SECRET),
        ("OperationCreatedOn", "/Date(999999999999999)/"),
        ("OperationCreatedOn", 0),
        ("InitiatingUserAzureActiveDirectoryObjectId", SECRET),
        ("InitiatingUserAzureActiveDirectoryObjectId", f"{USER}' or '1' eq '1"),
        ("InitiatingUserId", ZEROS),
        ("InitiatingUserId", None),
        ("InputParameters", None),
        ("InputParameters", {"Target": SECRET}),
        ("InputParameters", TWICE),
        ("InputParameters", pairs(Target=entity("contact", SECRET))),
        ("SharedVariables", [SECRET]),
    ],
)
def test_an_invalid_member_is_refused_with_its_name_and_without_its_value(member: str, value: JsonValue) -> None:
    refused = refusal(posted(update(**{member: value})))
    assert refused.code == "malformed_request"
    assert f"'{member}'" in refused.message
    assert SECRET not in refused.message
    assert refused.address is not None
    assert refused.address.correlation_id == CORRELATION


def test_only_dataverses_own_member_names_are_read() -> None:
    refused = refusal(posted(without(update(), "InitiatingUserId") | {"initiating_user_id": SYSTEM_USER}))
    assert "'InitiatingUserId'" in refused.message


@given(st.sampled_from(sorted(update())), json_values)
def test_every_value_of_a_member_yields_a_context_or_a_documented_error(member: str, value: JsonValue) -> None:
    with contextlib.suppress(InvalidRequest, Unanswerable):
        read(update(**{member: value})).to_request("create-quote").to_message()


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_every_random_body_raises_a_documented_error(body: bytes) -> None:
    with pytest.raises((InvalidRequest, Unanswerable)):
        ExecutionContext.from_message(Message(body=body))


# --- booleans are not integers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", ["Depth", "Stage", "Mode"])
@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1]])
def test_only_an_integer_is_an_integer(member: str, value: object) -> None:
    refused = refusal(posted(update(**{member: value})))
    assert refused.code == "malformed_request"
    assert f"'{member}'" in refused.message


@pytest.mark.parametrize("mode", [True, 1.0])
def test_the_message_id_does_not_take_another_value_for_the_asynchronous_mode(mode: object) -> None:
    refused = refusal(posted(update(Mode=mode)))
    assert refused.address is not None
    assert "/post/" in refused.address.message_id


@pytest.mark.parametrize("kind", ["OptionSetValue", "Money"])
@pytest.mark.parametrize("value", [True, False])
def test_a_boolean_is_no_number_of_an_attribute(kind: str, *, value: bool) -> None:
    target = entity("contact", CONTACT, statecode=typed(kind, Value=value))
    assert refusal(posted(update(InputParameters=pairs(Target=target)))).code == "malformed_request"
    managed = entity("contact", CONTACT, canbedeleted=typed("BooleanManagedProperty", Value=value))
    context = read(update(InputParameters=pairs(Target=managed)))
    assert isinstance(context.input, dict)
    assert isinstance(context.input["Target"], dict)
    assert context.input["Target"]["canbedeleted"] is value
