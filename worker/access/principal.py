"""Who a request comes from, once it is proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from worker.errors import Refused


@dataclass(frozen=True, slots=True)
class Principal:
    """A proven caller, by which `authority`: a token of Entra, or Dataverse in a queue of its own."""

    tenant: str
    """The Entra tenant's ID; under `dataverse` the organisation's."""
    oid: str
    """The caller's Entra object ID; empty where Dataverse named none."""
    kind: Literal["user", "app"]
    roles: frozenset[str]
    authority: Literal["entra", "dataverse"]
    system_user: str | None = None
    """The caller's row in Dataverse, where it named no object ID."""
    on_behalf_of: str | None = None
    """Object ID of the user whom an asserter names."""


def require_role(principal: Principal, role: str, flow: str) -> None:
    """Raises `Refused` unless the caller holds the flow's role."""
    if role not in principal.roles:
        raise Refused("role_missing", f"Starting '{flow}' takes the app role '{role}', which the claim does not hold.")
