"""Authenticates the callers: their access tokens end here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from aiohttp import web

from flow_worker.access.authorities import Authority, Evidence, ProvenSender
from flow_worker.access.principal import Principal
from flow_worker.access.rights import Rights
from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.gateway import audit, headers
from flow_worker.gateway.problems import of_outage, of_refusal
from flow_worker.gateway.store.port import PrincipalId


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller whose access token is verified."""

    id: PrincipalId
    proven: ProvenSender = field(repr=False)

    @property
    def principal(self) -> Principal:
        """The caller, acting for nobody else."""
        return self.proven.principal


@dataclass(frozen=True, slots=True)
class Acting:
    """A caller with the user for whom it acts, if it names one."""

    principal: Principal
    owner: PrincipalId
    asserter: PrincipalId | None


class Callers:
    """Verifies the callers' access tokens with the worker's own code."""

    def __init__(self, authority: Authority, rights: Rights, now: Callable[[], datetime]) -> None:
        self._authority = authority
        self._rights = rights
        self._now = now

    async def authenticate(self, request: web.Request) -> Caller:
        """Return the caller. Raises `Problem`: 401, or 503 if the issuer's keys are away."""
        token = headers.bearer_token(request)
        try:
            proven = await self._authority.authenticate(Evidence(token, self._now()))
        except Refused as refusal:
            audit.refused(refusal.code, None, None)
            raise of_refusal(refusal) from None
        except TemporarilyUnavailable as error:
            raise of_outage(error) from None
        return Caller(PrincipalId(proven.principal.tenant, proven.principal.oid), proven)

    def acting(self, caller: Caller, user: str | None) -> Acting:
        """Return the caller acting for the user that the request names, if it names one. Raises `Problem`."""
        try:
            principal = self._rights.acting_for(caller.principal, user)
        except Refused as refusal:
            audit.refused(refusal.code, caller.principal, None)
            raise of_refusal(refusal) from None
        if principal.on_behalf_of is None:
            return Acting(principal, caller.id, None)
        return Acting(principal, PrincipalId(principal.tenant, principal.on_behalf_of), caller.id)
