"""Builds messages as Dataverse posts them to a queue: a `RemoteExecutionContext` as JSON, .NET binary XML or XML.

Sources: Microsoft Learn, "Write a listener application for a Microsoft Azure solution", "Azure integration" (sizes),
"Use webhooks" (a complete body), the class RemoteExecutionContext. No sample shows a Custom API's call. The emulator
writes its parameters as plain key/value pairs, as the class has them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from servicebus_emulator.amqp import Symbol
from servicebus_emulator.amqp.sections import APPLICATION_PROPERTIES, DATA, PROPERTIES
from servicebus_emulator.cloud.dataverse.directory import Directory
from servicebus_emulator.servicebus.entities.message import BrokeredMessage
from servicebus_emulator.servicebus.entities.message_encoding import encode_section, parse_message

CLAIMS = "http://schemas.microsoft.com/xrm/2011/Claims/"
CONTRACTS = "http://schemas.microsoft.com/xrm/2011/Contracts"
NIL_GUID = uuid.UUID(int=0)
"""Dataverse writes this GUID for an absent ID, such as that of a user without an Entra object ID."""

Json = dict[str, JsonValue]
Form = Literal["json", "binary", "xml"]
_CONTENT_TYPES: Mapping[Form, str] = {
    "json": "application/json",
    "binary": "application/msbin1",
    "xml": "application/xml",
}
_TRUNCATED_MEMBERS = ("ParentContext", "InputParameters", "PreEntityImages", "PostEntityImages")
_ROWS = uuid.UUID("9a1f2b6e-0c3d-5e4f-8a7b-6c5d4e3f2a10")
_POST_OPERATION_STAGE = 40


class NativeMessageRequest(BaseModel):
    """The message to build: a Custom API's, or with an `entity` the message of a row's Create or Update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = Field(min_length=1, max_length=256)
    """The user who started the operation: a name in the organization, or an object ID."""
    message: str = "new_StartQuote"
    """`MessageName`: a Custom API's unique name, or `Update`."""
    entity: str | None = None
    """The table's logical name."""
    entity_id: uuid.UUID | None = None
    input: dict[str, JsonValue] = Field(default_factory=dict)
    """Plain values for `InputParameters`; with an `entity`, the columns of its `Target`."""
    form: Form = "json"
    truncated: bool = False
    """The message was too large: Dataverse then omits its input and sets a property."""
    object_id: Literal["known", "zeros", "absent"] = "known"
    """System and application users have zeros; older payloads lack the two members."""
    synchronous: bool = False
    """The step is synchronous: it has no system job, and so no `OperationId`."""
    old_dates: bool = False
    """Dates lack the offset: `/Date(…)/`."""
    correlation_id: uuid.UUID | None = None
    operation_id: uuid.UUID | None = None
    request_id: uuid.UUID | None = None
    properties: dict[str, str] = Field(default_factory=dict)
    """Application properties that replace or extend Dataverse's."""
    members: dict[str, JsonValue] = Field(default_factory=dict)
    """Members of the body that replace or extend Dataverse's."""
    message_id: str | None = None
    """The broker's message ID. Dataverse is not known to set one."""


class NativeMessage(BaseModel):
    """A message as Dataverse sends it to the broker."""

    model_config = ConfigDict(frozen=True)

    body: bytes = Field(repr=False)
    content_type: str
    application_properties: dict[str, str | bool]
    message_id: str | None = None

    def for_broker(self) -> BrokeredMessage:
        """Return the broker's message. Raise `ServiceBusError` if Service Bus would not accept it."""
        absent = [None] * 5  # the fields between message ID and content type (AMQP 1.0, section 3.2.4)
        return parse_message(
            encode_section(PROPERTIES, [self.message_id, *absent, Symbol(self.content_type)])
            + encode_section(APPLICATION_PROPERTIES, self.application_properties)
            + encode_section(DATA, self.body)
        )


def build(request: NativeMessageRequest, directory: Directory) -> NativeMessage:
    """Return the message that Dataverse would post."""
    return NativeMessage(
        body=_body(request, directory),
        content_type=_CONTENT_TYPES[request.form],
        application_properties=_properties(request, directory),
        message_id=request.message_id,
    )


def context(request: NativeMessageRequest, directory: Directory) -> Json:
    """Return the members of the body, in the alphabetical order in which .NET writes them."""
    oid, row = (str(id_) for id_ in directory.ids_of(request.user))
    definition = directory.definition
    members: Json = {
        "BusinessUnitId": str(definition.business_unit_id),
        "CorrelationId": str(request.correlation_id or uuid.uuid4()),
        "Depth": 1,
        "InitiatingUserAgent": "Mozilla/5.0",
        "InitiatingUserAzureActiveDirectoryObjectId": oid,
        "InitiatingUserId": row,
        "InputParameters": _input(request, row),
        "IsExecutingOffline": False,
        "IsInTransaction": request.synchronous,
        "IsOfflinePlayback": False,
        "IsolationMode": 1,
        "MessageName": request.message,
        "Mode": 0 if request.synchronous else 1,
        "OperationCreatedOn": _date(request),
        "OperationId": str(NIL_GUID if request.synchronous else request.operation_id or uuid.uuid4()),
        "OrganizationId": str(definition.organization_id),
        "OrganizationName": definition.organization_name,
        "OutputParameters": [],
        "OwningExtension": _reference("sdkmessageprocessingstep", _row("step")),
        "ParentContext": None,
        "PostEntityImages": [],
        "PreEntityImages": [],
        "PrimaryEntityId": str(_entity_id(request)) if request.entity else str(NIL_GUID),
        "PrimaryEntityName": request.entity or "none",
        "RequestId": str(request.request_id) if request.request_id else None,
        "SecondaryEntityName": "none",
        "SharedVariables": [{"key": "IsAutoTransact", "value": True}],
        "Stage": _POST_OPERATION_STAGE,
        "UserAzureActiveDirectoryObjectId": oid,
        "UserId": row,
    }
    return _with_object_ids(_truncated(members, request), request) | request.members


def _body(request: NativeMessageRequest, directory: Directory) -> bytes:
    match request.form:
        case "json":
            text = json.dumps(context(request, directory), separators=(",", ":"), ensure_ascii=False)
            # .NET's DataContractJsonSerializer escapes every slash.
            return text.replace("/", "\\/").encode()
        case "xml":
            return (
                f'<RemoteExecutionContext xmlns="{CONTRACTS}"><MessageName>{request.message}</MessageName>'
                "</RemoteExecutionContext>"
            ).encode()
        case "binary":
            # [MC-NBFX]: 0x40 short element, 0x08 short xmlns attribute, 0x99 text with end element, 0x01 end element.
            # A reader needs the first byte and the content type only, so the rest is no complete context.
            name, namespace, message = b"RemoteExecutionContext", CONTRACTS.encode(), request.message.encode()
            return b"\x40" + _counted(name) + b"\x08" + _counted(namespace) + b"\x99" + _counted(message) + b"\x01"
        case _:
            assert_never(request.form)


def _counted(text: bytes) -> bytes:
    return bytes([min(len(text), 127)]) + text[:127]


def _properties(request: NativeMessageRequest, directory: Directory) -> dict[str, str | bool]:
    _, row = directory.ids_of(request.user)
    named: dict[str, str] = {
        "Organization": f"{directory.definition.organization_name}.crm4.dynamics.com",
        "User": str(row),
        "InitiatingUser": str(row),
        "EntityLogicalName": request.entity or "none",
        "RequestName": request.message,
        "InitiatingUserAgent": "Mozilla/5.0",
    }
    truncated: dict[str, str | bool] = {f"{CLAIMS}MessageMaxSizeExceeded": True} if request.truncated else {}
    return {f"{CLAIMS}{name}": value for name, value in named.items()} | truncated | request.properties


def _input(request: NativeMessageRequest, row: str) -> JsonValue:
    if request.entity is None:
        return _pairs(request.input)
    system_columns: Json = {
        "modifiedon": _date(request),
        "modifiedby": _typed("EntityReference", _reference("systemuser", row)),
    }
    target = _entity(request.entity, str(_entity_id(request)), request.input | system_columns)
    return _pairs({"Target": target})


def _truncated(members: Json, request: NativeMessageRequest) -> Json:
    # No document says whether Dataverse omits the members or writes null; the emulator writes null.
    return members | dict.fromkeys(_TRUNCATED_MEMBERS, None) if request.truncated else members


def _with_object_ids(members: Json, request: NativeMessageRequest) -> Json:
    names = [name for name in members if name.endswith("AzureActiveDirectoryObjectId")]
    match request.object_id:
        case "known":
            return members
        case "zeros":
            return members | dict.fromkeys(names, str(NIL_GUID))
        case "absent":
            return {name: value for name, value in members.items() if name not in names}
        case _:
            assert_never(request.object_id)


def _pairs(values: Json) -> JsonValue:
    return [{"key": key, "value": value} for key, value in values.items()]


def _typed(name: str, members: Json) -> Json:
    return {"__type": f"{name}:{CONTRACTS}", **members}


def _entity(table: str | None, id_: str, attributes: Json) -> Json:
    members: Json = {
        "Attributes": _pairs(attributes),
        "EntityState": None,
        "FormattedValues": [],
        "Id": id_,
        "KeyAttributes": [],
        "LogicalName": table,
        "RelatedEntities": [],
        "RowVersion": None,
    }
    return _typed("Entity", members)


def _reference(table: str, id_: str) -> Json:
    return {"Id": id_, "KeyAttributes": [], "LogicalName": table, "Name": None, "RowVersion": None}


def _entity_id(request: NativeMessageRequest) -> uuid.UUID:
    return request.entity_id or uuid.uuid5(_ROWS, f"{request.entity} 1")


def _row(name: str) -> str:
    return str(uuid.uuid5(_ROWS, name))


def _date(request: NativeMessageRequest) -> str:
    now = dotnet_date(datetime.now(UTC))
    return now.replace("+0000", "") if request.old_dates else now


def dotnet_date(at: datetime) -> str:
    """Return a time as .NET's JSON serializer writes it."""
    return f"/Date({int(at.timestamp() * 1000)}+0000)/"


def open_entity(columns: Json) -> Json:
    """Return a value of an open type: an entity without a table. No sample shows one."""
    attributes: Json = {
        name: open_entity(value) if isinstance(value, dict) else value
        for name, value in columns.items()
        if "@odata" not in name
    }
    return _entity(None, str(NIL_GUID), attributes)
