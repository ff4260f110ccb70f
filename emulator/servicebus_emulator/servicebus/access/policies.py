"""Shared access policies: named keys with rights over the namespace or over one queue.

A namespace or an entity has up to 12 policies, each with a primary and a secondary key. Manage includes Send and
Listen. Source: Microsoft Learn, "Service Bus access control with Shared Access Signatures".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag, auto

MAX_POLICIES = 12
MAX_CHARACTERS = 256
"""The maximum length of a policy's name, and of a key."""


class Right(Flag):
    """A permitted kind of operation. MANAGE alone does not include SEND or LISTEN; grant `ALL_RIGHTS` instead."""

    SEND = auto()
    LISTEN = auto()
    MANAGE = auto()

    def __str__(self) -> str:
        """Return the service's names: `Send`, or `Send, Listen`."""
        return ", ".join(str(right.name).capitalize() for right in self)


ALL_RIGHTS = Right.SEND | Right.LISTEN | Right.MANAGE


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. `entity` is a queue's name in lower case; the empty text means the namespace."""

    name: str
    rights: Right
    keys: tuple[str, ...] = field(repr=False)
    entity: str = ""


DEVELOPMENT_POLICY = Policy("RootManageSharedAccessKey", ALL_RIGHTS, ("SAS_KEY_VALUE",))
"""The policy in every development emulator's connection string. Its key is public."""
