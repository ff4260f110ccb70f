"""The definition of a Dataverse organization: its users, teams, security roles, and callers."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from servicebus_emulator.cloud.dataverse.custom_api_definitions import CustomApiDefinition
from servicebus_emulator.cloud.dataverse.flow_runs import FlowRunsDefinition
from servicebus_emulator.cloud.dataverse.service_protection import RequestLimit
from servicebus_emulator.cloud.dataverse.table_definitions import BUILT_IN, TableDefinition
from servicebus_emulator.cloud.faults.definitions import Fault
from servicebus_emulator.cloud.fields import Definition, Name

ORGANIZATION_ID = UUID("b0c5c4a4-2b6f-4a0e-9f3e-0d6f5c7b8a91")

PrivilegeName = Annotated[str, Field(pattern=r"^prv[A-Za-z0-9_]+$")]
DepthName = Literal["Basic", "Local", "Deep", "Global"]
"""The depth of a privilege: the user's own rows, the business unit's, those of its child business units, all rows."""
ServiceProtectionCode = Literal["0x80072322", "0x80072321", "0x80072326"]


class SecurityRole(Definition):
    """A security role: privileges by name, each with its depth."""

    name: Name
    privileges: dict[PrivilegeName, DepthName]


class Team(Definition):
    """A team. Its members hold the privileges of its roles."""

    name: Name
    roles: tuple[Name, ...] = ()


class DataverseUser(Definition):
    """A row of `systemuser`."""

    name: Name
    object_id: UUID | None = None
    """The Entra object ID; None derives it from the name, as the token issuer does."""
    system_user_id: UUID | None = None
    """The ID of the row; None derives it from the name."""
    is_disabled: bool = False
    roles: tuple[Name, ...] = ()
    teams: tuple[Name, ...] = ()


class DataverseFault(Fault):
    """A fault whose `throttle` is Dataverse's: 429 with one of its three service protection codes."""

    code: ServiceProtectionCode = "0x80072322"
    """In order: too many requests, too much execution time, too many concurrent requests."""
    path: str | None = Field(default=None, min_length=1, max_length=2048)
    """Only calls whose path below the version begins with this text, such as `appnotifications`, ignoring case."""
    method: Literal["GET", "POST", "PATCH", "DELETE"] | None = None
    takes_effect: bool = False
    """The call is carried out, and the fault replaces its answer only."""

    def applies(self, method: str, path: str) -> bool:
        """Return whether a call with this path below the version meets the fault."""
        of_method = self.method is None or self.method == method
        return of_method and (self.path is None or path.lower().startswith(self.path.lower()))


class DataverseDefinition(Definition):
    """An organization: its users and their privileges, and the identities that may call its Web API."""

    organization_id: UUID = ORGANIZATION_ID
    organization_name: Name = "emulator"
    business_unit_id: UUID = UUID("754e1c3e-5b2a-4711-8109-e0071b6a82d1")
    application_users: tuple[UUID, ...] | None = None
    """The object IDs of application users; None: the managed identity. The users may call the Web API as well."""
    application_privileges: dict[PrivilegeName, DepthName] | None = None
    """The privileges of application users that are no entry of `users`; None: every privilege."""
    unknown_object_id: Literal["empty", "not_found"] = "empty"
    """The answer for an object ID without a user. No document says which of the two Dataverse sends."""
    roles: tuple[SecurityRole, ...] = ()
    teams: tuple[Team, ...] = ()
    users: tuple[DataverseUser, ...] = ()
    tables: tuple[TableDefinition, ...] = ()
    """The organization's own tables, beside the built-in ones."""
    custom_apis: tuple[CustomApiDefinition, ...] = ()
    request_limit: RequestLimit | None = None
    """The service protection limit of each caller; None: no limit."""
    flow_runs: FlowRunsDefinition = Field(default_factory=FlowRunsDefinition)
    faults: tuple[DataverseFault, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        roles, teams = {role.name for role in self.roles}, {team.name for team in self.teams}
        holders: tuple[Team | DataverseUser, ...] = (*self.teams, *self.users)
        users = [user.name for user in self.users]
        if len(set(users)) < len(users):
            raise ValueError("there are two users of one name")
        _refuse_unknown("role", {role for holder in holders for role in holder.roles} - roles)
        _refuse_unknown("team", {team for user in self.users for team in user.teams} - teams)
        return self

    @model_validator(mode="after")
    def _tables_differ(self) -> Self:
        tables = (*BUILT_IN, *self.tables)
        for names in ([table.set_name for table in tables], [table.logical_name for table in tables]):
            if duplicates := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"there are two tables named '{duplicates[0]}'")
        known = {table.logical_name for table in tables}
        _refuse_unknown(
            "table", {column.target for table in tables for column in table.columns if column.target} - known
        )
        return self


def _refuse_unknown(kind: str, names: set[str]) -> None:
    if names:
        raise ValueError(f"there is no {kind} named '{min(names)}'")
