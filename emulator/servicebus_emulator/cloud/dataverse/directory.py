"""The organization's directory: its users, and the privileges that their own and their teams' roles grant."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import get_args
from uuid import UUID

from servicebus_emulator.cloud.dataverse.definitions import DataverseDefinition, DataverseUser, DepthName
from servicebus_emulator.cloud.entra.issuer import object_id_of

_ROWS = uuid.UUID("5d0c7a52-3d0e-5b0f-9d5e-6f2a4b8c1e37")
"""The namespace of row IDs derived from names (RFC 9562, section 5.5)."""
DEPTHS: tuple[DepthName, ...] = get_args(DepthName)


@dataclass(frozen=True, slots=True)
class PrivilegeGrant:
    """A privilege that a role grants a user."""

    privilege: str
    depth: DepthName
    by_team: bool

    @property
    def rank(self) -> int:
        """The depth as a number: 0 (Basic) to 3 (Global)."""
        return DEPTHS.index(self.depth)


class Directory:
    """Finds users and the privileges they hold."""

    def __init__(self, definition: DataverseDefinition) -> None:
        self.definition = definition
        self._roles = {role.name: role for role in definition.roles}
        self._teams = {team.name: team for team in definition.teams}
        self._by_object_id = {object_id(user): user for user in definition.users}
        self._by_row = {system_user_id(user): user for user in definition.users}

    def by_object_id(self, oid: UUID) -> DataverseUser | None:
        """Return the user with this Entra object ID."""
        return self._by_object_id.get(oid)

    def by_system_user_id(self, row: UUID | None) -> DataverseUser | None:
        """Return the user whose row has this ID."""
        return self._by_row.get(row) if row is not None else None

    def as_json(self) -> dict[str, object]:
        """Return the definition as JSON, with the IDs derived from the users' names filled in."""
        users = [
            user.model_copy(update={"object_id": object_id(user), "system_user_id": system_user_id(user)})
            for user in self.definition.users
        ]
        return self.definition.model_copy(update={"users": tuple(users)}).model_dump(mode="json")

    def ids_of(self, user: str) -> tuple[UUID, UUID]:
        """Return object ID and row ID of a user, given by name or object ID.

        For a user that the organization lacks, both are derived from the name.
        """
        known = next((known for known in self.definition.users if known.name == user), None)
        known = known or self.by_object_id(object_id_of(user)) or DataverseUser(name=user)
        return object_id(known), system_user_id(known)

    def grants(
        self, user: DataverseUser, privileges: Collection[str], *, exclude_team_basic: bool = False
    ) -> list[PrivilegeGrant]:
        """Return the user's grants of these privileges, each at its greatest depth; none for a disabled user.

        `exclude_team_basic` ignores the grants that a team's role makes at Basic depth.
        """
        requested = {privilege.lower() for privilege in privileges}
        deepest = self.deepest(user, exclude_team_basic=exclude_team_basic)
        return [grant for name, grant in deepest.items() if name in requested]

    def deepest(self, user: DataverseUser, *, exclude_team_basic: bool = False) -> dict[str, PrivilegeGrant]:
        """Return all grants of the user by the privilege's name in lower case, each at its greatest depth."""
        deepest: dict[str, PrivilegeGrant] = {}
        for grant in self._all_grants(user):
            name = grant.privilege.lower()
            excluded = exclude_team_basic and grant.by_team and grant.depth == "Basic"
            if not excluded and (name not in deepest or deepest[name].rank < grant.rank):
                deepest[name] = grant
        return deepest

    def _all_grants(self, user: DataverseUser) -> Iterator[PrivilegeGrant]:
        if user.is_disabled:
            return
        team_roles = [name for team in user.teams for name in self._teams[team].roles]
        for names, by_team in ((user.roles, False), (team_roles, True)):
            for name in names:
                for privilege, depth in self._roles[name].privileges.items():
                    yield PrivilegeGrant(privilege, depth, by_team)


def object_id(user: DataverseUser) -> UUID:
    """Return the user's Entra object ID."""
    return user.object_id or object_id_of(user.name)


def system_user_id(user: DataverseUser) -> UUID:
    """Return the ID of the user's row."""
    return user.system_user_id or uuid.uuid5(_ROWS, user.name)


def privilege_id(name: str) -> UUID:
    """Return the ID of a privilege's row."""
    return uuid.uuid5(_ROWS, f"privilege {name.lower()}")
