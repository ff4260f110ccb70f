"""Dataverse's native messages, read by the contract's own parser."""

import json
import uuid

import pytest

from flow_contracts.dataverse import ExecutionContext
from flow_contracts.message import Message
from flow_contracts.request import InvalidRequest, Unanswerable
from servicebus_emulator import config
from servicebus_emulator.cloud.dataverse.directory import Directory
from servicebus_emulator.cloud.dataverse.execution_context import CLAIMS, NativeMessage, NativeMessageRequest, build
from servicebus_emulator.cloud.entra.issuer import object_id_of

ZEROS = str(uuid.UUID(int=0))


@pytest.fixture(scope="module")
def directory() -> Directory:
    return Directory(config.load().http.dataverse)


def built(directory: Directory, **changes: object) -> NativeMessage:
    return build(NativeMessageRequest.model_validate({"user": "ada"} | changes), directory)


def read(message: NativeMessage) -> ExecutionContext:
    return ExecutionContext.from_message(
        Message(
            body=message.body,
            content_type=message.content_type,
            application_properties=message.application_properties,
        )
    )


def test_the_message_of_a_custom_api_has_its_name_caller_and_parameters(directory: Directory) -> None:
    values = {"customer": "Contoso / Ltd", "amount": 12.5, "urgent": True, "note": None, "city": "Zürich"}
    context = read(built(directory, message="new_StartQuote", input=values))
    assert (context.message_name, context.primary_entity) == ("new_StartQuote", "")
    assert context.input == values
    assert context.initiating_user_oid == str(object_id_of("ada"))
    assert context.initiating_user_id == str(directory.ids_of("ada")[1])
    assert context.organization_id == str(directory.definition.organization_id)
    assert context.request_id is None
    assert context.operation_id is not None


def test_an_update_carries_the_row_with_its_columns(directory: Directory) -> None:
    row = uuid.uuid4()
    request = {"message": "Update", "entity": "contact", "entity_id": str(row), "input": {"firstname": "James"}}
    context = read(built(directory, **request))
    assert (context.message_name, context.primary_entity, context.primary_entity_id) == ("Update", "contact", str(row))
    assert "James" in json.dumps(context.input)
    assert "modifiedon" in json.dumps(context.input)


def test_slashes_are_escaped_as_in_dotnet(directory: Directory) -> None:
    body = built(directory, message="Update", entity="contact").body
    assert rb"Entity:http:\/\/schemas.microsoft.com\/xrm\/2011\/Contracts" in body
    assert rb"\/Date(" in body
    assert b"+0000)" in body
    assert b"+0000)" not in built(directory, message="Update", entity="contact", old_dates=True).body


@pytest.mark.parametrize("object_id", ["zeros", "absent"])
def test_a_message_without_object_id_still_has_the_users_row_id(directory: Directory, object_id: str) -> None:
    message = built(directory, object_id=object_id)
    member = json.loads(message.body).get("InitiatingUserAzureActiveDirectoryObjectId")
    assert member == (ZEROS if object_id == "zeros" else None)
    context = read(message)
    assert context.initiating_user_oid is None
    assert context.initiating_user_id == str(directory.ids_of("ada")[1])


def test_ids_can_be_set_to_post_the_same_operation_twice(directory: Directory) -> None:
    ids = {name: str(uuid.uuid4()) for name in ("correlation_id", "operation_id", "request_id")}
    first, second = read(built(directory, **ids)), read(built(directory, **ids))
    assert (first.correlation_id, first.operation_id, first.request_id) == tuple(ids.values())
    assert first.message_id == second.message_id
    assert read(built(directory)).message_id != read(built(directory)).message_id


def test_a_synchronous_step_has_no_operation_id(directory: Directory) -> None:
    context = read(built(directory, synchronous=True))
    assert (context.mode, context.operation_id) == (0, None)


def test_a_truncated_message_has_a_property_instead_of_its_input(directory: Directory) -> None:
    message = built(directory, truncated=True, input={"a": 1})
    assert json.loads(message.body)["InputParameters"] is None
    with pytest.raises(InvalidRequest) as caught:
        read(message)
    assert caught.value.code == "input_truncated"


@pytest.mark.parametrize(("form", "content_type"), [("binary", "application/msbin1"), ("xml", "application/xml")])
def test_binary_and_xml_are_recognised_by_content_type_and_by_first_byte(
    directory: Directory, form: str, content_type: str
) -> None:
    message = built(directory, form=form)
    assert message.content_type == content_type
    for variant in (message, message.model_copy(update={"content_type": ""})):
        with pytest.raises(Unanswerable) as caught:
            read(variant)
        assert caught.value.reason == "unsupported_format"


def test_the_application_properties_are_those_of_dataverse(directory: Directory) -> None:
    properties = built(directory, message="Update", entity="contact").application_properties
    named = {name.removeprefix(CLAIMS): value for name, value in properties.items()}
    assert set(named) == {
        "Organization",
        "User",
        "InitiatingUser",
        "EntityLogicalName",
        "RequestName",
        "InitiatingUserAgent",
    }
    assert (named["EntityLogicalName"], named["RequestName"]) == ("contact", "Update")


def test_members_and_application_properties_can_be_forged(directory: Directory) -> None:
    stranger = str(uuid.uuid4())
    message = built(directory, members={"OrganizationId": stranger}, properties={f"{CLAIMS}User": stranger})
    assert read(message).organization_id == stranger
    assert message.application_properties[f"{CLAIMS}User"] == stranger


def test_a_user_outside_the_organization_can_be_named_by_object_id(directory: Directory) -> None:
    stranger = str(uuid.uuid4())
    assert read(built(directory, user=stranger)).initiating_user_oid == stranger
    assert read(built(directory, user=str(object_id_of("ada")))).initiating_user_id == str(directory.ids_of("ada")[1])
