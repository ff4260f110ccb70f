"""What a native Dataverse message says: a `RemoteExecutionContext`, as a service endpoint posts it to a queue.

The members are those of Microsoft.Xrm.Sdk.RemoteExecutionContext. docs/reference/dataverse.md explains their mapping.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from flow_contracts import jsontext
from flow_contracts.dataverse import values
from flow_contracts.dataverse.wire import document_of, unread
from flow_contracts.message import Message
from flow_contracts.request import FlowRequest, Id, InvalidRequest, ReplyAddress

_NO_DATE = datetime.min.replace(tzinfo=UTC)
_ASYNCHRONOUS = 1
_TRUNCATED = "MessageMaxSizeExceeded"
"""Part of an application property's name; its whole name is documented nowhere."""

_CUT = (
    "Dataverse left out the input, because the message had more than 192 KB. Register the step for fewer columns, or "
    "send less in the Custom API's parameters."
)
_NOBODYS = "The body names no operation: CorrelationId, RequestId and OperationId are missing or all zeros."


def _required_guid(value: JsonValue) -> str:
    found = values.guid(value)
    if found is None:
        raise values.NotDataverse("is missing or all zeros")
    return found


def _moment(value: JsonValue) -> datetime | None:
    """.NET's least date, which stands for none, is None."""
    if value is None:
        return None
    at = values.moment(value) if isinstance(value, str) else None
    if at is None:
        raise values.NotDataverse("is not a date")
    return None if at == _NO_DATE else at


def _parameters(value: JsonValue) -> values.Object:
    if value is None:
        raise values.NotDataverse("is missing")
    return values.object_of(value)


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
OptionalGuid = Annotated[str | None, BeforeValidator(values.guid)]
Name = Annotated[str, Field(max_length=256)]


class ExecutionContext(BaseModel):
    """One message of Dataverse's, decoded. GUIDs are in lower case; one of all zeros is None."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    message_id: Id
    """The idempotency key: the same when Dataverse posts the same system job again. See docs/reference/dataverse.md."""
    correlation_id: Id
    """`CorrelationId`; where Dataverse gave none, `RequestId`, then `OperationId`."""

    message_name: Annotated[Name, Field(min_length=1)]
    """`Update`, for example, or a Custom API's unique name."""
    primary_entity: Annotated[Name, BeforeValidator(_table)]
    """The table's logical name; empty where Dataverse says `none`."""
    primary_entity_id: OptionalGuid
    organization_id: RequiredGuid
    organization_name: Name
    stage: int
    """10 before validation, 20 before the operation, 40 after it; 30 the operation itself."""
    mode: Annotated[int, Field(ge=0, le=1)]
    """0 synchronous, 1 asynchronous."""
    depth: int
    operation_id: OptionalGuid
    """The system job that posted the message, of an asynchronous step."""
    request_id: OptionalGuid
    operation_created_on: Annotated[datetime | None, BeforeValidator(_moment)]
    initiating_user_oid: OptionalGuid
    """Entra object ID of whoever started the operation; None of system and application users."""
    initiating_user_id: RequiredGuid
    """The same one's `systemuserid`."""
    input: Annotated[jsontext.Json, BeforeValidator(_parameters)] = Field(repr=False)
    """`InputParameters` in their plain form: see `contracts.dataverse.values`."""
    shared_variables: Annotated[jsontext.Json, BeforeValidator(values.object_of)] = Field(repr=False)

    @classmethod
    def from_message(cls, message: Message) -> Self:
        """Read a message.

        Of the broker's properties only the content type, the message ID and Dataverse's mark of a cut message count:
        the others are labels, and the body says it all.

        Raises `InvalidRequest`, its `address` set: `unsupported_format` for .NET's binary and XML forms,
        `input_truncated` for a message without its input, `malformed_request` for what is no execution context. Raises
        `Unanswerable`, with one of these codes as its reason, if nothing in the message tells where an answer belongs.
        """
        document = document_of(message)
        address = _address(document, message)
        if any(_TRUNCATED in name for name in message.application_properties):
            raise InvalidRequest("input_truncated", _CUT, address=address)
        fields = {field: document.get(member) for field, member in _MEMBERS.items()}
        ids = {"message_id": address.message_id, "correlation_id": address.correlation_id}
        try:
            return cls.model_validate(fields | ids)
        except ValidationError as error:
            raise InvalidRequest("malformed_request", _explain(error), address=address) from None

    def to_request(self, flow: str, *, reply_to: str | None = None) -> FlowRequest:
        """The request to run `flow` with the input parameters, its result to go to the session `correlation_id`."""
        return FlowRequest(
            flow=flow,
            input=self.input,
            message_id=self.message_id,
            correlation_id=self.correlation_id,
            reply_to=reply_to,
            reply_to_session_id=self.correlation_id,
        )


def _address(document: values.Object, message: Message) -> ReplyAddress:
    """Where an answer belongs, told leniently: even a message that is wrong elsewhere has one."""
    correlated_by = (_guid_in(document, member) for member in ("CorrelationId", "RequestId", "OperationId"))
    correlation_id = next(filter(None, correlated_by), None)
    if correlation_id is None:
        raise unread("malformed_request", _NOBODYS, message)
    return ReplyAddress(_message_id(document, message), correlation_id, correlation_id, None)


def _message_id(document: values.Object, message: Message) -> str:
    """A system job's ID where one posted the message, else a hash of the message itself.

    A job that failed is run again, and posts again under the same ID; a copy of an organisation has its jobs, too.
    Without a job nothing is posted again, and several posts may share their correlation and request IDs.
    """
    organization = _guid_in(document, "OrganizationId") or "unknown"
    job = _guid_in(document, "OperationId")
    if document.get("Mode") == _ASYNCHRONOUS and job is not None:
        return f"dataverse/{organization}/job/{job}"
    told_apart = (message.message_id or "").encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(hashlib.sha256(told_apart).digest() + message.body).hexdigest()
    return f"dataverse/{organization}/post/{digest}"


def _guid_in(document: values.Object, member: str) -> str | None:
    try:
        return values.guid(document.get(member))
    except values.NotDataverse:
        return None


def _explain(error: ValidationError) -> str:
    """Which members are wrong and how, without a word of what they held."""
    problems = [
        f"'{_MEMBERS.get(str(problem['loc'][0]), 'the message')}': {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return f"This is no execution context of Dataverse's: {'; '.join(problems[:5])}."
