"""Authorisation: decides whether a proven principal may start a flow, and whether it may name another user."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

from flow_contracts.guid import NIL_GUID, NotGuid, parse_guid
from flow_worker.access.principal import Principal
from flow_worker.access.user import User
from flow_worker.errors import Refused
from flow_worker.flows.privilege import Depth
from flow_worker.flows.registry import Flow


class Privileges(Protocol):
    """The source of users' privileges."""

    async def depth(self, user: User, privilege: str) -> Depth | None:
        """Return the depth at which the user holds the privilege, or None. Raises `TemporarilyUnavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Asserters:
    """The applications that may name the user they act for: by object ID, or by an app role."""

    oids: Collection[str] = ()
    role: str | None = None

    def admit(self, principal: Principal) -> bool:
        """Return whether the principal is an asserter. Only an app-only token can be: a user acts for nobody else."""
        if principal.authority != "entra" or principal.kind != "app":
            return False
        return principal.oid in self.oids or (self.role is not None and self.role in principal.roles)


class Rights:
    """The authorisation rules of one worker."""

    def __init__(self, asserters: Asserters, privileges: Privileges | None) -> None:
        """`privileges`: None if the settings name no Dataverse organization."""
        self._asserters = asserters
        self._privileges = privileges

    def acting_for(self, principal: Principal, user: str | None) -> Principal:
        """Return the principal, acting for the user that the request names, if it names one.

        Raises `Refused` if the principal is not an asserter, or `user` is not an Entra object ID.
        """
        if user is None:
            return principal
        if not self._asserters.admit(principal):
            raise Refused("on_behalf_of_not_allowed", "This sender may not name another user in 'on_behalf_of'.")
        return replace(principal, on_behalf_of=_object_id(user))

    async def require(self, principal: Principal, flow: Flow) -> None:
        """Require the flow's app role, its privilege, or both. Raises `Refused`, `TemporarilyUnavailable`."""
        # The role first: it is in the token, while the privilege costs a query.
        self.require_role(principal, flow)
        await self.require_privilege(principal, flow)

    def require_role(self, principal: Principal, flow: Flow) -> None:
        """Require the flow's app role, if it has one. Raises `Refused`."""
        if flow.role is not None and flow.role not in principal.roles:
            raise Refused(
                "role_missing",
                f"The flow '{flow.name}' requires the app role '{flow.role}', which the claim does not hold.",
            )

    async def require_privilege(self, principal: Principal, flow: Flow) -> None:
        """Require the flow's privilege, if it has one. Raises `Refused`, `TemporarilyUnavailable`."""
        if flow.privilege is None:
            if principal.on_behalf_of is not None:
                # The user's rights would not be checked, and the result would still say that the flow ran for them.
                raise Refused(
                    "on_behalf_of_not_allowed",
                    f"The flow '{flow.name}' requires no privilege, so the user's rights would not be checked; leave "
                    "out 'on_behalf_of'.",
                )
            return
        if self._privileges is None:
            raise Refused(
                "privilege_missing",
                f"The flow '{flow.name}' requires a privilege, and this worker has no Dataverse to query for it.",
            )
        depth = await self._privileges.depth(user_of(principal), flow.privilege)
        if depth is None or depth < flow.privilege_depth:
            raise Refused(
                "privilege_missing",
                f"The flow '{flow.name}' requires the privilege '{flow.privilege}' at depth "
                f"{flow.privilege_depth.name.lower()} or farther, which the user does not hold.",
            )


def user_of(principal: Principal) -> User:
    """Return the user whose privilege decides: the named user before the sender, the object ID before the row."""
    if principal.on_behalf_of is not None:
        return User(principal.on_behalf_of)
    return User(principal.oid) if principal.oid else User(None, principal.system_user)


def _object_id(text: str) -> str:
    try:
        oid = parse_guid(text)
    except NotGuid:
        oid = NIL_GUID
    if oid == NIL_GUID:
        raise Refused("on_behalf_of_invalid", "'on_behalf_of' must be the user's Entra object ID.")
    return oid
