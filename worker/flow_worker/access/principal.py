"""The principal: the proven sender of a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Principal:
    """A sender that an authority has proven."""

    tenant: str
    """The Entra tenant's ID; under the authority `dataverse` the organization's ID."""
    oid: str
    """The sender's Entra object ID; empty where Dataverse names no object ID."""
    kind: Literal["user", "app"]
    roles: frozenset[str]
    """The app roles in the sender's token; empty under the authority `dataverse`, which reads no token."""
    authority: Literal["entra", "dataverse", "gateway"]
    system_user: str | None = None
    """The sender's row in Dataverse, where Dataverse names no object ID."""
    on_behalf_of: str | None = None
    """Object ID of the user that an asserter names."""
