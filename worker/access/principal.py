"""Who a request comes from, once it is proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.errors import Refused


@dataclass(frozen=True, slots=True)
class Principal:
    """A proven caller: `oid` is the Entra object id in tenant `tenant`; `authority` says who vouches for it."""

    tenant: str
    oid: str
    kind: Literal["user", "app"]
    roles: frozenset[str]
    authority: Literal["entra"]


def require_role(principal: Principal, role: str, flow: str) -> None:
    """Raises `Refused` unless the caller holds the flow's role."""
    if role not in principal.roles:
        raise Refused("role_missing", f"Starting '{flow}' takes the app role '{role}', which the claim does not hold.")
