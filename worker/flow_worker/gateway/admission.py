"""Decides which requests the gateway accepts, as far as it can decide this before the worker.

The worker decides again, with its own settings. What the gateway refuses costs no message.
"""

from __future__ import annotations

from pydantic import JsonValue

from flow_worker.access.principal import Principal
from flow_worker.access.rights import Rights
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.flows.input_checks import InputChecks
from flow_worker.flows.registry import Flow, Registry
from flow_worker.gateway import audit
from flow_worker.gateway.problems import of_refusal


class GatewayAdmission:
    """Admits or refuses requests, by the flows' roles, privileges and schemas."""

    def __init__(
        self,
        registry: Registry,
        rights: Rights,
        checks: InputChecks,
        *,
        checks_privileges: bool,
        explains: bool,
    ) -> None:
        """`checks_privileges`: the gateway asks Dataverse. `explains`: callers learn which flows exist."""
        self._registry = registry
        self._rights = rights
        self._checks = checks
        self._checks_privileges = checks_privileges
        self._explains = explains

    async def require(self, principal: Principal, flow: str, value: JsonValue) -> None:
        """Return if the worker may accept the request. Raises `Problem`."""
        try:
            found = await self._permitted(principal, flow)
            # Last, because the message names the place where the input fails: only for permitted callers.
            if found is not None:
                await self._check_input(found, value, principal)
        except Refused as refusal:
            audit.refused(refusal.code, principal, flow)
            raise of_refusal(refusal if self._explains else refusal.for_sender()) from None

    async def may_start(self, principal: Principal, flow: Flow) -> bool | None:
        """Return whether the caller may start the flow; None if only the worker can decide about its privilege."""
        try:
            self._rights.require_role(principal, flow)
            if flow.privilege is not None and not self._checks_privileges:
                return None
            await self._rights.require_privilege(principal, flow)
        except Refused:
            return False
        except TemporarilyUnavailable:
            return None
        return True

    async def _permitted(self, principal: Principal, name: str) -> Flow | None:
        """Return the flow that the caller may start; None if only the worker can decide. Raises `Refused`."""
        try:
            flow = self._registry.find(name)
            self._rights.require_role(principal, flow)
        except Refused as refusal:
            await self._refuse(principal, name, refusal)
            return None
        if flow.privilege is None:
            await self._rights.require_privilege(principal, flow)  # without a privilege, nobody acts for a user
            return flow
        if not self._checks_privileges:
            return None
        try:
            await self._rights.require_privilege(principal, flow)
        except TemporarilyUnavailable:
            return None  # the request waits in the worker: it is neither run nor denied
        return flow

    async def _refuse(self, principal: Principal, name: str, refusal: Refused) -> None:
        """Refuse a flow that does not exist, or whose role is missing, unless this would tell which flows exist.

        A caller may hold what the gateway can check of some flow, and lack its privilege, which the worker checks. The
        gateway accepts such a request. It then accepts a request for any other name, too, and the worker refuses both.
        """
        if self._explains:
            raise refusal
        if self._checks_privileges:
            try:
                await self._rights.query_any(principal, name)
            except TemporarilyUnavailable:
                return
        elif self._defers_any(principal):
            return
        raise refusal

    def _defers_any(self, principal: Principal) -> bool:
        return any(
            flow.privilege is not None and (flow.role is None or flow.role in principal.roles)
            for flow in self._registry
        )

    async def _check_input(self, flow: Flow, value: JsonValue, principal: Principal) -> None:
        try:
            await self._checks.require(flow, value, (principal.tenant, principal.oid))
        except TemporarilyUnavailable:
            return  # all processes are busy; the worker checks every input anyway
