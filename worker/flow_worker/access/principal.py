"""Who a request comes from, once it is proven."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
