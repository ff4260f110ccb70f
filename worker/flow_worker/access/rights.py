"""Authorisation: decides whether a proven principal may start a flow, and whether it may name another user."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from flow_contracts.guid import NIL_GUID, NotGuid, parse_guid
from flow_worker.access.dataverse import FOREIGN_ORGANIZATION
from flow_worker.access.principal import Principal
from flow_worker.access.user import User
from flow_worker.errors import Refused, TemporarilyUnavailable
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
        if principal.authority == "dataverse" or principal.kind != "app":
            return False
        return principal.oid in self.oids or (self.role is not None and self.role in principal.roles)


@dataclass(frozen=True, slots=True)
class QueuePrivileges:
    """The source of the privileges of one request queue's senders."""

    source: Privileges | None
    known: Collection[str] = ()
    """The privileges that the queue's flows require."""
    organization: str | None = None
    """Authority `dataverse`: the only organization whose users these are."""


class Rights:
    """The authorisation rules of one worker."""

    def __init__(
        self,
        asserters: Asserters,
        privileges: Privileges | None,
        *,
        known_privileges: Collection[str] = (),
        of_queues: Mapping[str, QueuePrivileges] | None = None,
        organization: str | None = None,
    ) -> None:
        """`privileges`: None if the settings name no Dataverse organization.

        `known_privileges`: the privileges that `query_any` may query. `of_queues`: the same two by request queue; None:
        they are the same for every queue. `organization`: the only one whose users the native senders may be.
        """
        self._organization = organization
        self._asserters = asserters
        self._privileges = privileges
        self._known = tuple(sorted(set(known_privileges)))
        self._of_queues: dict[str, Rights] | None = None
        if of_queues is not None:
            self._of_queues = {
                name.lower(): Rights(
                    asserters, queue.source, known_privileges=queue.known, organization=queue.organization
                )
                for name, queue in of_queues.items()
            }

    def of(self, queue: str) -> Rights:
        """Return the rules for the requests of one queue: its own Dataverse organization decides.

        The settings may no longer name the queue of a request that waited. No other organization may judge it then.
        """
        if self._of_queues is None:
            return self
        return self._of_queues.get(queue.lower()) or Rights(self._asserters, _UnknownQueue(queue))

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
        is_native = principal.authority == "dataverse"
        if is_native and self._organization is not None and principal.tenant != self._organization:
            # A continuation, proven before the settings gave its queue to another organization.
            raise Refused("organization_unknown", FOREIGN_ORGANIZATION)
        # The role first: it is in the token, while the privilege costs a query.
        self.require_role(principal, flow)
        await self.require_privilege(principal, flow)

    def require_role(self, principal: Principal, flow: Flow) -> None:
        """Require the flow's app role, if it has one. Raises `Refused`."""
        if flow.role is not None and flow.role not in principal.roles:
            raise Refused(
                "role_missing",
                f"The flow '{flow.name}' requires the app role '{flow.role}', which the claim does not hold.",
                is_hidden=True,
            )

    async def query_any(self, principal: Principal, flow: str) -> None:
        """Query one privilege of the user and ignore the answer. Raises `TemporarilyUnavailable`.

        A refusal without a query would be faster than one with a query, and would not wait for Dataverse. The sender
        could tell by that which flows exist and which of them require a privilege. Only users count: no document says
        what Dataverse answers for an application without a user of its own, and its refusal must not wait for that.
        """
        is_user = principal.kind == "user" or principal.on_behalf_of is not None
        if is_user and self._privileges is not None and self._known:
            chosen = self._known[zlib.crc32(flow.encode("utf-8", "surrogatepass")) % len(self._known)]
            await self._privileges.depth(user_of(principal), chosen)

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
                f"The flow '{flow.name}' requires a privilege, and its queue has no Dataverse to query for it.",
                is_hidden=True,
            )
        depth = await self._privileges.depth(user_of(principal), flow.privilege)
        if depth is None or depth < flow.privilege_depth:
            raise Refused(
                "privilege_missing",
                f"The flow '{flow.name}' requires the privilege '{flow.privilege}' at depth "
                f"{flow.privilege_depth.name.lower()} or farther, which the user does not hold.",
                is_hidden=True,
            )


class _UnknownQueue:
    """The privileges of a request whose queue the settings no longer name."""

    def __init__(self, queue: str) -> None:
        self._queue = queue

    async def depth(self, user: User, privilege: str) -> Depth | None:
        raise TemporarilyUnavailable(
            "request_queue_unknown",
            f"the settings name no request queue '{self._queue}', so no Dataverse can be asked for '{privilege}'; add "
            "the queue to request_queues again",
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
