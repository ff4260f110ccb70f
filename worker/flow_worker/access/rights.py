"""Who may start which flow, and who may do so for another: decided on a proven principal."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

from flow_worker.access.principal import Principal
from flow_worker.access.privilege import Depth
from flow_worker.access.user import User
from flow_worker.errors import Refused
from flow_worker.flows.registry import Flow

_NOBODY = str(uuid.UUID(int=0))
_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Privileges(Protocol):
    """Where it can be asked what a user holds."""

    async def depth(self, user: User, privilege: str) -> Depth | None:
        """None: the user does not hold it. Raises `TemporarilyUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Asserters:
    """Which applications may name the user they ask for: by object ID, or by an app role."""

    oids: Collection[str] = ()
    role: str | None = None

    def admit(self, principal: Principal) -> bool:
        """Only app-only tokens: a user speaks for no one else."""
        if principal.authority != "entra" or principal.kind != "app":
            return False
        return principal.oid in self.oids or (self.role is not None and self.role in principal.roles)


class Rights:
    """The rules of one worker."""

    def __init__(self, asserters: Asserters, privileges: Privileges | None) -> None:
        self._asserters = asserters
        self._privileges = privileges

    def speaking_for(self, principal: Principal, user: str | None) -> Principal:
        """The principal, on behalf of the user that the request names, if any. Raises `Refused`."""
        if user is None:
            return principal
        if not self._asserters.admit(principal):
            raise Refused("on_behalf_of_not_allowed", "This sender may not name another user in 'on_behalf_of'.")
        oid = user.lower()
        if _GUID.fullmatch(oid) is None or oid == _NOBODY:
            raise Refused("on_behalf_of_invalid", "'on_behalf_of' must be the user's Entra object ID.")
        return replace(principal, on_behalf_of=oid)

    async def require(self, principal: Principal, flow: Flow) -> None:
        """The flow's role, its privilege, or both. Raises `Refused`, `TemporarilyUnavailable`."""
        self.require_role(principal, flow)
        await self.require_privilege(principal, flow)

    def require_role(self, principal: Principal, flow: Flow) -> None:
        """The flow's role, if it asks for one. Raises `Refused`."""
        if flow.role is not None and flow.role not in principal.roles:
            raise Refused(
                "role_missing",
                f"Starting '{flow.name}' takes the app role '{flow.role}', which the claim does not hold.",
            )

    async def require_privilege(self, principal: Principal, flow: Flow) -> None:
        """The flow's privilege, if it asks for one. Raises `Refused`, `TemporarilyUnavailable`."""
        if flow.privilege is None:
            if principal.on_behalf_of is not None:
                raise Refused(
                    "on_behalf_of_not_allowed",
                    f"'{flow.name}' asks for no privilege, so naming a user would prove nothing; leave it out.",
                )
            return
        if self._privileges is None:
            raise Refused("privilege_missing", f"Nobody can tell who holds the privilege that '{flow.name}' takes.")
        depth = await self._privileges.depth(user_of(principal), flow.privilege)
        if depth is None or depth < flow.privilege_depth:
            raise Refused(
                "privilege_missing",
                f"Starting '{flow.name}' takes the privilege '{flow.privilege}' at least at depth "
                f"{flow.privilege_depth.name.lower()}, which the user does not hold.",
            )


def user_of(principal: Principal) -> User:
    """Whose privilege counts."""
    if principal.on_behalf_of is not None:
        return User(principal.on_behalf_of)
    return User(principal.oid) if principal.oid else User(None, principal.system_user)
