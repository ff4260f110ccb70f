"""Parses a Web API URL into a privilege query: which of these privileges does this user hold?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from aiohttp import web

from servicebus_emulator.cloud.dataverse import odata

NAMESPACE = "Microsoft.Dynamics.CRM."
_BY_OBJECT_ID: Literal["RetrieveAadUserSetOfPrivilegesByNames"] = "RetrieveAadUserSetOfPrivilegesByNames"
_BY_ROW: Literal["RetrieveUserPrivilegeByPrivilegeName"] = "RetrieveUserPrivilegeByPrivilegeName"


class UserCreatingQuery(Exception):
    """The URL uses the key `azureactivedirectoryobjectid`: with it a GET can create a user in Dataverse."""


@dataclass(frozen=True, slots=True)
class PrivilegeQuery:
    """A query for a user's privileges. Either `object_id` or `system_user_id` names the user."""

    function: Literal["RetrieveAadUserSetOfPrivilegesByNames", "RetrieveUserPrivilegeByPrivilegeName"]
    object_id: UUID | None
    system_user_id: UUID | None
    privileges: tuple[str, ...]
    exclude_team_basic: bool = False


def parse(request: web.Request, base: str) -> PrivilegeQuery | None:
    """Return the query of a URL below `base`, None for another URL. Raise `MalformedUrl` or `UserCreatingQuery`."""
    segments = odata.segments(request.rel_url.raw_path.removeprefix(base))
    literals = odata.aliases(request.rel_url.raw_query_string)
    first = segments[0].lower()
    if first.startswith("systemusers(") and "azureactivedirectoryobjectid" in first:
        raise UserCreatingQuery
    match segments:
        case [function] if function.startswith(f"{_BY_OBJECT_ID}("):
            return _by_object_id(odata.call(function, literals))
        case [row, function] if row.startswith("systemusers(") and function.startswith(f"{NAMESPACE}{_BY_ROW}("):
            return _by_row(odata.call(row, literals), odata.call(function, literals))
    return None


def _by_object_id(call: odata.FunctionCall) -> PrivilegeQuery:
    _allow_only(call, "DirectoryObjectId", "PrivilegeNames")
    oid, names = odata.guid(call.literal("DirectoryObjectId")), odata.strings(call.literal("PrivilegeNames"))
    return PrivilegeQuery(_BY_OBJECT_ID, oid, None, tuple(names))


def _by_row(row: odata.FunctionCall, call: odata.FunctionCall) -> PrivilegeQuery:
    _allow_only(call, "PrivilegeName", "ExcludeTeamBasic")
    if len(row.arguments) != 1:
        raise odata.MalformedUrl("'systemusers' takes one key.")
    name = odata.string(call.literal("PrivilegeName"))
    exclude = odata.boolean(call.named.get("ExcludeTeamBasic", "false"))
    return PrivilegeQuery(_BY_ROW, None, odata.guid(row.arguments[0]), (name,), exclude)


def _allow_only(call: odata.FunctionCall, *parameters: str) -> None:
    if len(call.named) < len(call.arguments) or not call.named.keys() <= set(parameters):
        raise odata.MalformedUrl(f"'{call.name}' takes {', '.join(parameters)}.")
