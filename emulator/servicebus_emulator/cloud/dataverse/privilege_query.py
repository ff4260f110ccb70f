"""What a URL of Dataverse's Web API asks: which of these privileges does this user hold?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from aiohttp import web

from servicebus_emulator.cloud.dataverse import odata

NAMESPACE = "Microsoft.Dynamics.CRM."
_BY_OBJECT_ID: Literal["RetrieveAadUserSetOfPrivilegesByNames"] = "RetrieveAadUserSetOfPrivilegesByNames"
_BY_ROW: Literal["RetrieveUserPrivilegeByPrivilegeName"] = "RetrieveUserPrivilegeByPrivilegeName"


class NoSuchSegment(Exception):
    """The Web API may have it; the emulator does not."""


class CouldCreateUser(Exception):
    """By its key `azureactivedirectoryobjectid` a GET can create a user."""


@dataclass(frozen=True, slots=True)
class Question:
    """About a user by object ID, or by the row's ID."""

    function: Literal["RetrieveAadUserSetOfPrivilegesByNames", "RetrieveUserPrivilegeByPrivilegeName"]
    object_id: UUID | None
    system_user_id: UUID | None
    privileges: tuple[str, ...]
    exclude_team_basic: bool = False


def read(request: web.Request, base: str) -> Question:
    """Read a request for a URL below `base`. Raises `odata.Malformed`, `NoSuchSegment`, `CouldCreateUser`."""
    segments = odata.segments(request.rel_url.raw_path.removeprefix(base))
    given = odata.aliases(request.rel_url.raw_query_string)
    first = segments[0].lower()
    if first.startswith("systemusers(") and "azureactivedirectoryobjectid" in first:
        raise CouldCreateUser
    match segments:
        case [function] if function.startswith(f"{_BY_OBJECT_ID}("):
            return _by_object_id(odata.call(function, given))
        case [row, function] if row.startswith("systemusers(") and function.startswith(f"{NAMESPACE}{_BY_ROW}("):
            return _by_row(odata.call(row, given), odata.call(function, given))
    raise NoSuchSegment(f"Resource not found for the segment '{segments[0][:300]}'.")


def _by_object_id(call: odata.Call) -> Question:
    _only(call, "DirectoryObjectId", "PrivilegeNames")
    oid, names = odata.guid(call.literal("DirectoryObjectId")), odata.strings(call.literal("PrivilegeNames"))
    return Question(_BY_OBJECT_ID, oid, None, tuple(names))


def _by_row(row: odata.Call, call: odata.Call) -> Question:
    _only(call, "PrivilegeName", "ExcludeTeamBasic")
    if len(row.arguments) != 1:
        raise odata.Malformed("'systemusers' takes one key.")
    name = odata.string(call.literal("PrivilegeName"))
    exclude = odata.boolean(call.named.get("ExcludeTeamBasic", "false"))
    return Question(_BY_ROW, None, odata.guid(row.arguments[0]), (name,), exclude)


def _only(call: odata.Call, *parameters: str) -> None:
    if len(call.named) < len(call.arguments) or not call.named.keys() <= set(parameters):
        raise odata.Malformed(f"'{call.name}' takes {', '.join(parameters)}.")
