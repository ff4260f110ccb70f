"""Who is in the organization, and which privileges they hold: by their own roles, and by those of their teams."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import get_args
from uuid import UUID

from servicebus_emulator.cloud.definitions import DataverseDefinition, DataverseUser, DepthName
from servicebus_emulator.cloud.entra.issuer import object_id_of

_ROWS = uuid.UUID("5d0c7a52-3d0e-5b0f-9d5e-6f2a4b8c1e37")
_DEPTHS: tuple[DepthName, ...] = get_args(DepthName)


@dataclass(frozen=True, slots=True)
class Holding:
    """A privilege as a role gives it."""

    privilege: str
    depth: DepthName
    by_team: bool

    @property
    def rank(self) -> int:
        """The farther it reaches, the higher."""
        return _DEPTHS.index(self.depth)


class Organization:
    """Answers who somebody is and what they hold."""

    def __init__(self, definition: DataverseDefinition) -> None:
        self.definition = definition
        self._roles = {role.name: role for role in definition.roles}
        self._teams = {team.name: team for team in definition.teams}
        self._by_oid = {object_id(user): user for user in definition.users}
        self._by_row = {system_user_id(user): user for user in definition.users}

    def by_object_id(self, oid: UUID) -> DataverseUser | None:
        """The user who signs in with this Entra object ID."""
        return self._by_oid.get(oid)

    def by_system_user_id(self, row: UUID | None) -> DataverseUser | None:
        """The user whose row has this ID."""
        return self._by_row.get(row) if row is not None else None

    def shown(self) -> dict[str, object]:
        """The definition, with the IDs that follow from the users' names."""
        users = [
            user.model_copy(update={"object_id": object_id(user), "system_user_id": system_user_id(user)})
            for user in self.definition.users
        ]
        return self.definition.model_copy(update={"users": tuple(users)}).model_dump(mode="json")

    def ids_of(self, user: str) -> tuple[UUID, UUID]:
        """Object ID and row's ID of a user by name or object ID; of a stranger, those the name stands for."""
        known = next((known for known in self.definition.users if known.name == user), None)
        known = known or self.by_object_id(object_id_of(user)) or DataverseUser(name=user)
        return object_id(known), system_user_id(known)

    def held(
        self, user: DataverseUser, privileges: Collection[str], *, exclude_team_basic: bool = False
    ) -> list[Holding]:
        """Those of the privileges that the user holds, each by the role that reaches farthest; a disabled user none.

        `exclude_team_basic`: what a team gives at Basic depth does not count.
        """
        wanted = {privilege.lower() for privilege in privileges}
        best: dict[str, Holding] = {}
        for holding in self._holdings(user):
            name = holding.privilege.lower()
            too_little = exclude_team_basic and holding.by_team and holding.depth == "Basic"
            if name in wanted and not too_little and (name not in best or best[name].rank < holding.rank):
                best[name] = holding
        return list(best.values())

    def _holdings(self, user: DataverseUser) -> Iterator[Holding]:
        if user.is_disabled:
            return
        by_team = [name for team in user.teams for name in self._teams[team].roles]
        for names, of_team in ((user.roles, False), (by_team, True)):
            for name in names:
                for privilege, depth in self._roles[name].privileges.items():
                    yield Holding(privilege, depth, of_team)


def object_id(user: DataverseUser) -> UUID:
    """The user's Entra object ID."""
    return user.object_id or object_id_of(user.name)


def system_user_id(user: DataverseUser) -> UUID:
    """The ID of the user's row."""
    return user.system_user_id or uuid.uuid5(_ROWS, user.name)


def privilege_id(name: str) -> UUID:
    """The ID of a privilege's row."""
    return uuid.uuid5(_ROWS, f"privilege {name.lower()}")
