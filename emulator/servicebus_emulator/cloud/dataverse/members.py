"""The members of the organization, and the rights with which a call acts: its caller's, or an impersonated user's too.

Source: Microsoft Learn, "Impersonate another user using the Web API", "How access to a record is determined".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from servicebus_emulator.cloud.dataverse.directory import DEPTHS, Directory, PrivilegeGrant, object_id, system_user_id
from servicebus_emulator.cloud.dataverse.tables import Action, Row, Table, Values
from servicebus_emulator.cloud.dataverse.web_api_errors import (
    BAD_REQUEST,
    MISSING_PRIVILEGE,
    NO_ACCESS_TO_ROW,
    NOT_A_MEMBER,
    USER_DISABLED,
    WebApiError,
    no_such_row,
)

IMPERSONATION = "prvActOnBehalfOfAnotherUser"
_EVERY_DEPTH = 3
_NO_DEPTH = -1


@dataclass(frozen=True, slots=True)
class Member:
    """A user or an application user."""

    name: str
    row: UUID
    """`systemuserid`."""
    object_id: UUID
    depths: Mapping[str, int] | None
    """The depth of each privilege by its name in lower case, 0 (Basic) to 3 (Global); None: every privilege."""
    disabled: bool = False
    application: bool = False

    def depth(self, privilege: str) -> int:
        """Return the depth of a privilege; -1 if the member does not hold it."""
        return _EVERY_DEPTH if self.depths is None else self.depths.get(privilege.lower(), _NO_DEPTH)

    def grants(self, privileges: Collection[str]) -> list[PrivilegeGrant]:
        """Return the grants of these privileges, as those of a role of the member's own."""
        depths = {name: self.depth(name) for name in privileges}
        return [PrivilegeGrant(name, DEPTHS[depth], by_team=False) for name, depth in depths.items() if depth >= 0]

    def columns(self) -> Values:
        """Return the values of the member's row of `systemuser`."""
        return {
            "systemuserid": str(self.row),
            "fullname": self.name,
            "domainname": f"{self.name}@emulator.test",
            "azureactivedirectoryobjectid": str(self.object_id),
            "applicationid": str(self.object_id) if self.application else None,
            "isdisabled": self.disabled,
        }


class Members:
    """Finds members of a directory, which does not change."""

    def __init__(self, directory: Directory, default_application_user: UUID) -> None:
        """`default_application_user` is the application user unless the definition names others."""
        self._directory = directory
        configured = directory.definition.application_users
        self._applications = {default_application_user} if configured is None else set(configured)
        self._all = tuple(self._build())
        self._by_object_id = {member.object_id: member for member in self._all}
        self._by_row = {member.row: member for member in self._all}

    def by_object_id(self, oid: UUID) -> Member | None:
        """Return the member with this Entra object ID."""
        return self._by_object_id.get(oid)

    def application(self, key: UUID | None) -> Member | None:
        """Return the application user that is no entry of `Users`, by object ID or row ID: both are the same."""
        member = None if key is None else self.by_row(key)
        return member if member is not None and member.application else None

    def by_row(self, row: UUID) -> Member | None:
        """Return the member whose row has this ID."""
        return self._by_row.get(row)

    def all(self) -> tuple[Member, ...]:
        """Return the users, then the application users that are no entry of `Users`."""
        return self._all

    def by_name(self, name: str) -> Member | None:
        """Return the user of this name."""
        return next((member for member in self._all if member.name == name), None)

    def _build(self) -> Iterator[Member]:
        definition = self._directory.definition
        known = set()
        for user in definition.users:
            known.add(object_id(user))
            depths = {name: grant.rank for name, grant in self._directory.deepest(user).items()}
            applies = object_id(user) in self._applications
            yield Member(user.name, system_user_id(user), object_id(user), depths, user.is_disabled, applies)
        given = definition.application_privileges
        depths_of_applications = (
            None if given is None else {name.lower(): DEPTHS.index(depth) for name, depth in given.items()}
        )
        for oid in sorted(self._applications - known):
            # Such an application user has no name, and so no row ID of its own: it has its object ID.
            yield Member(f"# {oid}", oid, oid, depths_of_applications, application=True)

    def admit(self, oid: str) -> Member:
        """Return the caller. Raise `WebApiError` unless it is an enabled member."""
        return _enabled(self.by_object_id(UUID(oid)) if _is_guid(oid) else None)

    def impersonated(self, headers: Mapping[str, str], caller: Member) -> Member:
        """Return the user that the call acts for: the caller unless a header names another one."""
        name = next((name for name in ("CallerObjectId", "MSCRMCallerID") if name in headers), None)
        if name is None:
            return caller
        # No document says which of the two headers counts beside the other; the emulator takes the preferred one.
        value = headers[name].strip()
        if not _is_guid(value):
            raise WebApiError(400, BAD_REQUEST, f"The header {name} is no GUID.")
        if caller.depth(IMPERSONATION) == _NO_DEPTH:
            raise _missing(caller, IMPERSONATION)
        if name == "CallerObjectId":
            return _enabled(self.by_object_id(UUID(value)))
        member = self.by_row(UUID(value))
        if member is None:
            raise no_such_row("systemuser", value)
        return _enabled(member)


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of a call: those that both the caller and the user it acts for hold."""

    caller: Member
    user: Member
    """The user that the call acts for; the caller itself without impersonation."""

    @property
    def delegate(self) -> Member | None:
        """The caller if it impersonates another user."""
        return None if self.caller.row == self.user.row else self.caller

    def require(self, privilege: str, entity: str = "") -> int:
        """Return the depth of a privilege. Raise `WebApiError` if the caller or the user does not hold it."""
        for member in (self.caller, self.user):
            if member.depth(privilege) == _NO_DEPTH:
                raise _missing(member, privilege, entity)
        return min(self.caller.depth(privilege), self.user.depth(privilege))

    def sees(self, row: Row, depth: int) -> bool:
        """Return whether this depth covers the row. All users are in one business unit."""
        return depth > 0 or row.values.get("ownerid") == str(self.user.row)

    def require_row(self, table: Table, action: Action, row: Row) -> None:
        """Raise `WebApiError` unless the depth of the action's privilege covers the row."""
        if not self.sees(row, self.require(table.privilege(action), table.name)):
            raise no_access(self.user, action, row.id, table.name)


def no_access(user: Member, action: str, row: object, entity: str) -> WebApiError:
    """Return the answer to a call whose privilege does not cover the row."""
    text = f"Principal with id {user.row} does not have {action}Access right(s) for record with id {row} of entity"
    return WebApiError(403, NO_ACCESS_TO_ROW, f"{text} {entity}")


def _missing(member: Member, privilege: str, entity: str = "") -> WebApiError:
    of_entity = f" for entity '{entity}'" if entity else ""
    text = f"Principal user (Id={member.row}, type=8) is missing {privilege} privilege{of_entity}."
    return WebApiError(403, MISSING_PRIVILEGE, text)


def _enabled(member: Member | None) -> Member:
    if member is None:
        raise WebApiError(403, NOT_A_MEMBER, "The user is not a member of the organization.")
    if member.disabled:
        raise WebApiError(403, USER_DISABLED, f"The user with id {member.row} is disabled.")
    return member


def _is_guid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
