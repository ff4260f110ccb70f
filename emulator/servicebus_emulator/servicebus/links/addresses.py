"""Where a link points: an entity, its dead-letter queue, its `$management` node, or `$cbs`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_MANAGEMENT = "/$management"
_SUBSCRIPTIONS = "/subscriptions/"


class Node(Enum):
    """What kind of node an address names."""

    ENTITY = "entity"
    MANAGEMENT = "management"
    SUBSCRIPTION = "subscription"
    """A topic's subscription, or something below it."""
    CBS = "cbs"


@dataclass(frozen=True, slots=True)
class Address:
    """`entity` is lower-case, as the broker's names are compared; empty for `$cbs`."""

    node: Node
    entity: str

    @property
    def path(self) -> str:
        """What a right is needed over."""
        return self.entity + _MANAGEMENT if self.node is Node.MANAGEMENT else self.entity


def parse(address: str) -> Address:
    """Read an address; scheme and authority, as Python sends them, are cut off."""
    path = address.split("://", 1)[1].partition("/")[2] if "://" in address else address
    path = path.strip("/").lower()
    if path == "$cbs":
        return Address(Node.CBS, "")
    if _SUBSCRIPTIONS in path:
        return Address(Node.SUBSCRIPTION, path)
    if path.endswith(_MANAGEMENT):
        return Address(Node.MANAGEMENT, path.removesuffix(_MANAGEMENT))
    return Address(Node.ENTITY, path)
