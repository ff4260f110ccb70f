"""Native Dataverse messages for tests, in the form that service endpoints post."""

from __future__ import annotations

import json
from typing import Any

from flow_contracts.message import Message

NAMESPACE = "http://schemas.microsoft.com/xrm/2011/Contracts"
ZEROS = "00000000-0000-0000-0000-000000000000"
ORGANIZATION = "b0c5c4a4-2b6f-4a0e-9f3e-0d6f5c7b8a91"
CORRELATION = "b374239d-4233-41a9-8b17-a86cb4f737b5"
JOB = "4af10637-4ea2-e711-8122-e0071b66aea1"
REQUEST = "7a4d2c1e-63f5-4b5e-8d8e-2f4f1c9a0b3d"
USER = "75c2dd97-8e1b-4fd4-9a5b-4d0c9d1e2f30"
SYSTEM_USER = "3d4a8c5e-1f2b-e711-810a-e0071b6a82d1"
CONTACT = "97a8dfd0-4ea2-e711-811d-e0071b6ac1b1"

Json = dict[str, Any]  # Any: tests read values at any depth


def typed(name: str, /, **members: object) -> Json:
    return {"__type": f"{name}:{NAMESPACE}", **members}


def pairs(**members: object) -> list[Json]:
    return [{"key": key, "value": value} for key, value in members.items()]


def reference(table: str, id_: str, name: str | None = None) -> Json:
    return typed("EntityReference", Id=id_, KeyAttributes=[], LogicalName=table, Name=name, RowVersion=None)


def entity(table: str, id_: str, /, **attributes: object) -> Json:
    empty: Json = {"FormattedValues": [], "KeyAttributes": [], "RelatedEntities": [], "RowVersion": None}
    own = {"Attributes": pairs(**attributes), "EntityState": None, "Id": id_, "LogicalName": table}
    return typed("Entity", **own, **empty)


def update(**changed: object) -> Json:
    """The context of an asynchronous step on the update of a contact."""
    target = entity(
        "contact",
        CONTACT,
        contactid=CONTACT,
        firstname="James",
        modifiedon="/Date(1506384247000)/",
        statecode=typed("OptionSetValue", Value=0),
        modifiedby=reference("systemuser", SYSTEM_USER),
    )
    return {
        "BusinessUnitId": "754e1c3e-5b2a-e711-8109-e0071b6a82d1",
        "CorrelationId": CORRELATION,
        "Depth": 1,
        "InitiatingUserAgent": "Mozilla/5.0",
        "InitiatingUserAzureActiveDirectoryObjectId": USER,
        "InitiatingUserId": SYSTEM_USER,
        "InputParameters": pairs(Target=target),
        "IsExecutingOffline": False,
        "IsInTransaction": False,
        "IsOfflinePlayback": False,
        "IsolationMode": 1,
        "MessageName": "Update",
        "Mode": 1,
        "OperationCreatedOn": "/Date(1722582039000+0000)/",
        "OperationId": JOB,
        "OrganizationId": ORGANIZATION,
        "OrganizationName": "contoso",
        "OutputParameters": [],
        "OwningExtension": {
            "Id": "75417616-4ea2-e711-8122-e0071b66aea1",
            "KeyAttributes": [],
            "LogicalName": "sdkmessageprocessingstep",
            "Name": None,
            "RowVersion": None,
        },
        "ParentContext": None,
        "PostEntityImages": [],
        "PreEntityImages": [],
        "PrimaryEntityId": CONTACT,
        "PrimaryEntityName": "contact",
        "RequestId": None,
        "SecondaryEntityName": "none",
        "SharedVariables": pairs(IsAutoTransact=True),
        "Stage": 40,
        "UserAzureActiveDirectoryObjectId": USER,
        "UserId": SYSTEM_USER,
        **changed,
    }


def custom_api(**parameters: object) -> Json:
    """The context of a synchronous step on a Custom API."""
    return update(
        MessageName="new_StartQuote",
        PrimaryEntityName="none",
        PrimaryEntityId=ZEROS,
        InputParameters=pairs(**parameters),
        Mode=0,
        OperationId=ZEROS,
        OperationCreatedOn="/Date(-62135596800000)/",
        RequestId=REQUEST,
    )


def posted(context: Json, **fields: Any) -> Message:  # Any: whatever Message takes
    """The message as Dataverse posts it: slashes escaped, the content type as its only broker property."""
    fields.setdefault("content_type", "application/json")
    return Message(body=json.dumps(context, separators=(",", ":")).replace("/", r"\/").encode(), **fields)
