"""Native messages, as the reader of them understands them."""

import json
import uuid

import pytest

from flow_contracts.dataverse import ExecutionContext
from flow_contracts.message import Message
from flow_contracts.request import InvalidRequest, Unanswerable
from servicebus_emulator import config
from servicebus_emulator.cloud.dataverse.directory import Organization
from servicebus_emulator.cloud.dataverse.execution_context import CLAIMS, NativeMessage, NativeRequest, build
from servicebus_emulator.cloud.entra.issuer import object_id_of

ZEROS = str(uuid.UUID(int=0))


@pytest.fixture(scope="module")
def organization() -> Organization:
    return Organization(config.load().http.dataverse)


def built(organization: Organization, **wanted: object) -> NativeMessage:
    return build(NativeRequest.model_validate({"user": "ada"} | wanted), organization)


def read(message: NativeMessage) -> ExecutionContext:
    return ExecutionContext.from_message(
        Message(
            body=message.body,
            content_type=message.content_type,
            application_properties=message.application_properties,
        )
    )


def test_a_custom_apis_message_names_it_its_caller_and_its_parameters(organization: Organization) -> None:
    given = {"customer": "Contoso / Ltd", "amount": 12.5, "urgent": True, "note": None, "city": "Zürich"}
    context = read(built(organization, message="new_StartQuote", input=given))
    assert (context.message_name, context.primary_entity) == ("new_StartQuote", "")
    assert context.input == given
    assert context.initiating_user_oid == str(object_id_of("ada"))
    assert context.initiating_user_id == str(organization.ids_of("ada")[1])
    assert context.organization_id == str(organization.definition.organization_id)
    assert context.request_id is None
    assert context.operation_id is not None


def test_an_update_carries_the_row_with_its_columns(organization: Organization) -> None:
    row = uuid.uuid4()
    wanted = {"message": "Update", "entity": "contact", "entity_id": str(row), "input": {"firstname": "James"}}
    context = read(built(organization, **wanted))
    assert (context.message_name, context.primary_entity, context.primary_entity_id) == ("Update", "contact", str(row))
    assert "James" in json.dumps(context.input)
    assert "modifiedon" in json.dumps(context.input)


def test_slashes_are_escaped_as_dotnet_does(organization: Organization) -> None:
    body = built(organization, message="Update", entity="contact").body
    assert rb"Entity:http:\/\/schemas.microsoft.com\/xrm\/2011\/Contracts" in body
    assert rb"\/Date(" in body
    assert b"+0000)" in body
    assert b"+0000)" not in built(organization, message="Update", entity="contact", old_dates=True).body


@pytest.mark.parametrize("object_id", ["zeros", "absent"])
def test_without_an_object_id_the_row_still_says_who_it_was(organization: Organization, object_id: str) -> None:
    message = built(organization, object_id=object_id)
    member = json.loads(message.body).get("InitiatingUserAzureActiveDirectoryObjectId")
    assert member == (ZEROS if object_id == "zeros" else None)
    context = read(message)
    assert context.initiating_user_oid is None
    assert context.initiating_user_id == str(organization.ids_of("ada")[1])


def test_ids_can_be_chosen_to_post_the_same_job_twice(organization: Organization) -> None:
    ids = {name: str(uuid.uuid4()) for name in ("correlation_id", "operation_id", "request_id")}
    first, second = read(built(organization, **ids)), read(built(organization, **ids))
    assert (first.correlation_id, first.operation_id, first.request_id) == tuple(ids.values())
    assert first.message_id == second.message_id
    assert read(built(organization)).message_id != read(built(organization)).message_id


def test_a_synchronous_step_has_no_job(organization: Organization) -> None:
    context = read(built(organization, synchronous=True))
    assert (context.mode, context.operation_id) == (0, None)


def test_a_cut_message_lacks_its_input_and_a_property_says_so(organization: Organization) -> None:
    message = built(organization, truncated=True, input={"a": 1})
    assert json.loads(message.body)["InputParameters"] is None
    with pytest.raises(InvalidRequest) as caught:
        read(message)
    assert caught.value.code == "input_truncated"


@pytest.mark.parametrize(("form", "content_type"), [("binary", "application/msbin1"), ("xml", "application/xml")])
def test_the_other_forms_are_told_by_their_content_type_and_their_first_byte(
    organization: Organization, form: str, content_type: str
) -> None:
    message = built(organization, form=form)
    assert message.content_type == content_type
    for known in (message, message.model_copy(update={"content_type": ""})):
        with pytest.raises(Unanswerable) as caught:
            read(known)
        assert caught.value.reason == "unsupported_format"


def test_the_labels_are_those_of_dataverse(organization: Organization) -> None:
    labels = built(organization, message="Update", entity="contact").application_properties
    named = {name.removeprefix(CLAIMS): value for name, value in labels.items()}
    assert set(named) == {
        "Organization",
        "User",
        "InitiatingUser",
        "EntityLogicalName",
        "RequestName",
        "InitiatingUserAgent",
    }
    assert (named["EntityLogicalName"], named["RequestName"]) == ("contact", "Update")


def test_members_and_labels_can_be_forged(organization: Organization) -> None:
    stranger = str(uuid.uuid4())
    message = built(organization, members={"OrganizationId": stranger}, properties={f"{CLAIMS}User": stranger})
    assert read(message).organization_id == stranger
    assert message.application_properties[f"{CLAIMS}User"] == stranger


def test_a_stranger_may_be_named_by_object_id(organization: Organization) -> None:
    stranger = str(uuid.uuid4())
    assert read(built(organization, user=stranger)).initiating_user_oid == stranger
    assert read(built(organization, user=str(object_id_of("ada")))).initiating_user_id == str(
        organization.ids_of("ada")[1]
    )
