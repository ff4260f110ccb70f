"""Whose privilege is asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
    """A user, by the Entra object ID, or by the row in Dataverse where that is all that is known."""

    oid: str | None
    system_user: str | None = None
