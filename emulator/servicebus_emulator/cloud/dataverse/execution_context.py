"""Messages as Dataverse itself posts them to a queue: a `RemoteExecutionContext` in JSON, or in a form it also knows.

Sources: Microsoft Learn, "Write a listener application for a Microsoft Azure solution", "Azure integration" (sizes),
"Use webhooks" (a whole body), the class RemoteExecutionContext. No sample shows a Custom API's call; its parameters are
taken to be plain key/value pairs, as the class has them.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from servicebus_emulator.amqp import Symbol
from servicebus_emulator.amqp.sections import APPLICATION_PROPERTIES, DATA, PROPERTIES
from servicebus_emulator.cloud.dataverse.directory import Organization
from servicebus_emulator.servicebus.entities.message import Message
from servicebus_emulator.servicebus.entities.message_encoding import encode_section, parse_message

CLAIMS = "http://schemas.microsoft.com/xrm/2011/Claims/"
CONTRACTS = "http://schemas.microsoft.com/xrm/2011/Contracts"
NOBODY = uuid.UUID(int=0)
"""What Dataverse writes for a user without an Entra object ID."""

Json = dict[str, JsonValue]
Form = Literal["json", "binary", "xml"]
_CONTENT_TYPES: dict[Form, str] = {"json": "application/json", "binary": "application/msbin1", "xml": "application/xml"}
_CUT = ("ParentContext", "InputParameters", "PreEntityImages", "PostEntityImages")
_ROWS = uuid.UUID("9a1f2b6e-0c3d-5e4f-8a7b-6c5d4e3f2a10")
_STAGE_AFTER = 40


class NativeRequest(BaseModel):
    """What message to build. Without an `entity` it is a Custom API's, with one that of a row's Create or Update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = Field(min_length=1, max_length=256)
    """Who started the operation: the name of a user in the organization, or an object ID."""
    message: str = "new_StartQuote"
    """`MessageName`: a Custom API's unique name, or `Update`."""
    entity: str | None = None
    """The table's logical name."""
    entity_id: uuid.UUID | None = None
    input: dict[str, JsonValue] = Field(default_factory=dict)
    """Plain values for `InputParameters`; with an `entity`, the columns of its `Target`."""
    form: Form = "json"
    truncated: bool = False
    """The message was too large: its input is left out, and a property says so."""
    object_id: Literal["known", "zeros", "absent"] = "known"
    """Zeros are what system and application users have; older payloads lack the two members."""
    synchronous: bool = False
    """A synchronous step's message has no system job, and so no `OperationId`."""
    old_dates: bool = False
    """`/Date(…)/` without the offset."""
    correlation_id: uuid.UUID | None = None
    operation_id: uuid.UUID | None = None
    request_id: uuid.UUID | None = None
    properties: dict[str, str] = Field(default_factory=dict)
    """Application properties to set, whatever Dataverse would have set."""
    members: dict[str, JsonValue] = Field(default_factory=dict)
    """Members of the body to set, whatever they were."""
    message_id: str | None = None
    """The broker's; none is known to be set by Dataverse."""


class NativeMessage(BaseModel):
    """A message as it goes to the broker."""

    model_config = ConfigDict(frozen=True)

    body: bytes = Field(repr=False)
    content_type: str
    application_properties: dict[str, str | bool]
    message_id: str | None = None

    def for_broker(self) -> Message:
        """As the emulator's broker keeps it. Raises `emulator.servicebus.errors.ServiceBusError`."""
        absent = [None] * 5
        return parse_message(
            encode_section(PROPERTIES, [self.message_id, *absent, Symbol(self.content_type)])
            + encode_section(APPLICATION_PROPERTIES, self.application_properties)
            + encode_section(DATA, self.body)
        )


def build(wanted: NativeRequest, organization: Organization) -> NativeMessage:
    """The message that Dataverse would post."""
    return NativeMessage(
        body=_body(wanted, organization),
        content_type=_CONTENT_TYPES[wanted.form],
        application_properties=_properties(wanted, organization),
        message_id=wanted.message_id,
    )


def context(wanted: NativeRequest, organization: Organization) -> Json:
    """The body's members, in the alphabetical order in which .NET writes them."""
    oid, row = (str(found) for found in organization.ids_of(wanted.user))
    definition = organization.definition
    whole: Json = {
        "BusinessUnitId": str(definition.business_unit_id),
        "CorrelationId": str(wanted.correlation_id or uuid.uuid4()),
        "Depth": 1,
        "InitiatingUserAgent": "Mozilla/5.0",
        "InitiatingUserAzureActiveDirectoryObjectId": oid,
        "InitiatingUserId": row,
        "InputParameters": _input(wanted, row),
        "IsExecutingOffline": False,
        "IsInTransaction": wanted.synchronous,
        "IsOfflinePlayback": False,
        "IsolationMode": 1,
        "MessageName": wanted.message,
        "Mode": 0 if wanted.synchronous else 1,
        "OperationCreatedOn": _date(wanted),
        "OperationId": str(NOBODY if wanted.synchronous else wanted.operation_id or uuid.uuid4()),
        "OrganizationId": str(definition.organization_id),
        "OrganizationName": definition.organization_name,
        "OutputParameters": [],
        "OwningExtension": _reference("sdkmessageprocessingstep", _row("step")),
        "ParentContext": None,
        "PostEntityImages": [],
        "PreEntityImages": [],
        "PrimaryEntityId": str(_entity_id(wanted)) if wanted.entity else str(NOBODY),
        "PrimaryEntityName": wanted.entity or "none",
        "RequestId": str(wanted.request_id) if wanted.request_id else None,
        "SecondaryEntityName": "none",
        "SharedVariables": [{"key": "IsAutoTransact", "value": True}],
        "Stage": _STAGE_AFTER,
        "UserAzureActiveDirectoryObjectId": oid,
        "UserId": row,
    }
    return _without_object_ids(_cut(whole, wanted), wanted) | wanted.members


def _body(wanted: NativeRequest, organization: Organization) -> bytes:
    members = context(wanted, organization)
    if wanted.form == "json":
        return json.dumps(members, separators=(",", ":"), ensure_ascii=False).replace("/", "\\/").encode()
    text = f'<RemoteExecutionContext xmlns="{CONTRACTS}"><MessageName>{wanted.message}</MessageName>'
    if wanted.form == "xml":
        return f"{text}</RemoteExecutionContext>".encode()
    # [MC-NBFX]: 0x40 short element, 0x08 short xmlns attribute, 0x01 end element; the rest only looks the part
    name, namespace = b"RemoteExecutionContext", CONTRACTS.encode()
    return (
        b"\x40" + _counted(name) + b"\x08" + _counted(namespace) + b"\x99" + _counted(wanted.message.encode()) + b"\x01"
    )


def _counted(text: bytes) -> bytes:
    return bytes([min(len(text), 127)]) + text[:127]


def _properties(wanted: NativeRequest, organization: Organization) -> dict[str, str | bool]:
    _, row = organization.ids_of(wanted.user)
    named: dict[str, str] = {
        "Organization": f"{organization.definition.organization_name}.crm4.dynamics.com",
        "User": str(row),
        "InitiatingUser": str(row),
        "EntityLogicalName": wanted.entity or "none",
        "RequestName": wanted.message,
        "InitiatingUserAgent": "Mozilla/5.0",
    }
    cut: dict[str, str | bool] = {f"{CLAIMS}MessageMaxSizeExceeded": True} if wanted.truncated else {}
    return {f"{CLAIMS}{name}": value for name, value in named.items()} | cut | wanted.properties


def _input(wanted: NativeRequest, row: str) -> JsonValue:
    if wanted.entity is None:
        return _pairs(wanted.input)
    its_own: Json = {
        "modifiedon": _date(wanted),
        "modifiedby": _typed("EntityReference", _reference("systemuser", row)),
    }
    target: Json = {
        "Attributes": _pairs(wanted.input | its_own),
        "EntityState": None,
        "FormattedValues": [],
        "Id": str(_entity_id(wanted)),
        "KeyAttributes": [],
        "LogicalName": wanted.entity,
        "RelatedEntities": [],
        "RowVersion": None,
    }
    return _pairs({"Target": _typed("Entity", target)})


def _cut(members: Json, wanted: NativeRequest) -> Json:
    """Whether Dataverse leaves the members out or makes them null is documented nowhere; here they are null."""
    return members | dict.fromkeys(_CUT, None) if wanted.truncated else members


def _without_object_ids(members: Json, wanted: NativeRequest) -> Json:
    names = [name for name in members if name.endswith("AzureActiveDirectoryObjectId")]
    if wanted.object_id == "absent":
        return {name: value for name, value in members.items() if name not in names}
    return members | dict.fromkeys(names, str(NOBODY)) if wanted.object_id == "zeros" else members


def _pairs(values: Json) -> JsonValue:
    return [{"key": key, "value": value} for key, value in values.items()]


def _typed(name: str, members: Json) -> Json:
    return {"__type": f"{name}:{CONTRACTS}", **members}


def _reference(table: str, id_: str) -> Json:
    return {"Id": id_, "KeyAttributes": [], "LogicalName": table, "Name": None, "RowVersion": None}


def _entity_id(wanted: NativeRequest) -> uuid.UUID:
    return wanted.entity_id or uuid.uuid5(_ROWS, f"{wanted.entity} 1")


def _row(name: str) -> str:
    return str(uuid.uuid5(_ROWS, name))


def _date(wanted: NativeRequest) -> str:
    milliseconds = int(datetime.now(UTC).timestamp() * 1000)
    return f"/Date({milliseconds})/" if wanted.old_dates else f"/Date({milliseconds}+0000)/"
