"""A native Dataverse message: the `RemoteExecutionContext` that a service endpoint posts to a queue.

The members are those of Microsoft.Xrm.Sdk.RemoteExecutionContext. docs/reference/dataverse.md explains their mapping.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, PlainValidator, ValidationError

from flow_contracts.dataverse import values
from flow_contracts.dataverse.message_body import parse_body, unreadable
from flow_contracts.message import Message
from flow_contracts.request import FlowRequest, Id, InvalidRequest, ReplyAddress

_NO_DATE = datetime.min.replace(tzinfo=UTC)
_ASYNCHRONOUS = 1
_TRUNCATED = "MessageMaxSizeExceeded"
"""A part of the name of the application property that marks a truncated message. No document states the whole name."""

_TRUNCATED_MESSAGE = (
    "Dataverse removed the input, because the message had more than 192 KB. Register the step for fewer columns, or "
    "send less in the Custom API's parameters."
)
_NO_CORRELATION = "The body names no operation: CorrelationId, RequestId and OperationId are missing or all zeros."


def _required_guid(value: JsonValue) -> str:
    guid = values.parse_optional_guid(value)
    if guid is None:
        raise values.NotDataverse("is missing or all zeros")
    return guid


def _parse_date(value: JsonValue) -> datetime | None:
    """Return the date; None for null and for .NET's `DateTime.MinValue`, which Dataverse writes for a missing date."""
    if value is None:
        return None
    at = values.parse_date(value) if isinstance(value, str) else None
    if at is None:
        raise values.NotDataverse("is not a date")
    return None if at == _NO_DATE else at


def _parameters(value: JsonValue) -> values.Object:
    if value is None:
        raise values.NotDataverse("is missing")
    return values.to_object(value)


def _table(value: JsonValue) -> JsonValue:
    return "" if value is None or value == "none" else value


_MEMBERS = {
    "message_name": "MessageName",
    "primary_entity": "PrimaryEntityName",
    "primary_entity_id": "PrimaryEntityId",
    "organization_id": "OrganizationId",
    "organization_name": "OrganizationName",
    "stage": "Stage",
    "mode": "Mode",
    "depth": "Depth",
    "operation_id": "OperationId",
    "request_id": "RequestId",
    "operation_created_on": "OperationCreatedOn",
    "initiating_user_oid": "InitiatingUserAzureActiveDirectoryObjectId",
    "initiating_user_id": "InitiatingUserId",
    "input": "InputParameters",
    "shared_variables": "SharedVariables",
}

RequiredGuid = Annotated[str, BeforeValidator(_required_guid)]
OptionalGuid = Annotated[str | None, BeforeValidator(values.parse_optional_guid)]
Name = Annotated[str, Field(max_length=256)]


class ExecutionContext(BaseModel):
    """A decoded Dataverse message. GUIDs are in lower case; a GUID of all zeros is None."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    message_id: Id
    """The idempotency key: the same when Dataverse posts the same system job again. See docs/reference/dataverse.md."""
    correlation_id: Id
    """`CorrelationId`, else `RequestId`, else `OperationId`."""

    message_name: Annotated[Name, Field(min_length=1)]
    """For example `Update`, or the unique name of a Custom API."""
    primary_entity: Annotated[Name, BeforeValidator(_table)]
    """The table's logical name; empty if Dataverse writes `none`."""
    primary_entity_id: OptionalGuid
    organization_id: RequiredGuid
    organization_name: Name
    stage: int
    """10: before validation, 20: before the operation, 30: the operation itself, 40: after the operation."""
    mode: Annotated[int, Field(ge=0, le=1)]
    """0: synchronous, 1: asynchronous."""
    depth: int
    operation_id: OptionalGuid
    """The system job that posted the message, if the step is asynchronous."""
    request_id: OptionalGuid
    operation_created_on: Annotated[datetime | None, BeforeValidator(_parse_date)]
    initiating_user_oid: OptionalGuid
    """Entra object ID of the user who started the operation; None for system and application users."""
    initiating_user_id: RequiredGuid
    """The `systemuserid` of the same user."""
    # PlainValidator: the values were checked when the body was parsed.
    input: Annotated[values.Object, PlainValidator(_parameters)] = Field(repr=False)
    """`InputParameters` in their plain form: see `flow_contracts.dataverse.values`."""
    shared_variables: Annotated[values.Object, PlainValidator(values.to_object)] = Field(repr=False)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Parse a message.

        Only three broker properties count: the content type, the message ID, and the mark of a truncated message. The
        others repeat the body, and any sender can write them.

        Raises `InvalidRequest` with its `address`. The code is `unsupported_format` for .NET's binary and XML forms,
        and `input_truncated` for a message without its input. For anything else that is not an execution context the
        code is `malformed_request`. Raises `Unanswerable`, with one of these codes as its reason, if the message has no
        reply address.
        """
        document = parse_body(message)
        # Before the other members: every refusal of them needs the address.
        address = _address(document, message)
        if any(_TRUNCATED in name for name in message.application_properties):
            raise InvalidRequest("input_truncated", _TRUNCATED_MESSAGE, address=address)
        fields = {field: document.get(member) for field, member in _MEMBERS.items()}
        ids = {"message_id": address.message_id, "correlation_id": address.correlation_id}
        try:
            return cls.model_validate(fields | ids)
        except ValidationError as error:
            raise InvalidRequest("malformed_request", _explain(error), address=address) from None

    def to_request(self, flow: str, *, reply_to: str | None = None) -> FlowRequest:
        """Build the request to run `flow` with the input parameters. Its result goes to session `correlation_id`."""
        request = FlowRequest(
            flow=flow,
            message_id=self.message_id,
            correlation_id=self.correlation_id,
            reply_to=reply_to,
            reply_to_session_id=self.correlation_id,
        )
        return request.with_checked_input(self.input)


def _address(document: values.Object, message: Message) -> ReplyAddress:
    """Return the reply address. It needs few members, so that a message with other errors still gets a result."""
    candidates = (_guid_or_none(document, member) for member in ("CorrelationId", "RequestId", "OperationId"))
    correlation_id = next(filter(None, candidates), None)
    if correlation_id is None:
        raise unreadable("malformed_request", _NO_CORRELATION, message)
    return ReplyAddress(_message_id(document, message), correlation_id, correlation_id, None)


def _message_id(document: values.Object, message: Message) -> str:
    """Return the ID of the system job that posted the message, else a hash of the message itself.

    Dataverse runs a failed job again, and that run posts under the same job ID. The organization is part of the key,
    because a copy of an organization has the same jobs. Without a job, Dataverse never posts again. Several such posts
    may share their correlation and request IDs, so only the message itself distinguishes them.
    """
    organization = _guid_or_none(document, "OrganizationId") or "unknown"
    job = _guid_or_none(document, "OperationId")
    mode = document.get("Mode")
    # To Python, true and 1.0 equal 1: the ID must not depend on a member that `ExecutionContext` refuses.
    if type(mode) is int and mode == _ASYNCHRONOUS and job is not None:
        return f"dataverse/{organization}/job/{job}"
    broker_message_id = (message.message_id or "").encode("utf-8", "surrogatepass")
    # The first hash has a fixed length, so that no other split into ID and body gives the same digest.
    digest = hashlib.sha256(hashlib.sha256(broker_message_id).digest() + message.body).hexdigest()
    return f"dataverse/{organization}/post/{digest}"


def _guid_or_none(document: values.Object, member: str) -> str | None:
    try:
        return values.parse_optional_guid(document.get(member))
    except values.NotDataverse:
        return None


def _explain(error: ValidationError) -> str:
    """Name the invalid members and their problems. The text quotes no value."""
    problems = [
        f"'{_MEMBERS.get(str(problem['loc'][0]), 'the message')}': {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return f"This is not an execution context of Dataverse: {'; '.join(problems[:5])}."
