"""The user whose privilege decides about a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """A user, by the Entra object ID, or by the Dataverse row where only the row is known."""

    oid: str | None
    system_user: str | None = None
