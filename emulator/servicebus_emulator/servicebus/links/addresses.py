"""Parses the addresses of links: an entity, its `$management` node, or `$cbs`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_MANAGEMENT = "/$management"
_SUBSCRIPTIONS = "/subscriptions/"


class Node(Enum):
    """The kind of node that an address names. SUBSCRIPTION includes everything below a topic's subscription."""

    ENTITY = "entity"
    MANAGEMENT = "management"
    SUBSCRIPTION = "subscription"
    CBS = "cbs"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. `entity` is in lower case, as the broker compares names; it is empty for `$cbs`."""

    node: Node
    entity: str

    @property
    def path(self) -> str:
        """The path that a client needs a right over."""
        return self.entity + _MANAGEMENT if self.node is Node.MANAGEMENT else self.entity


def parse_address(address: str) -> Address:
    """Parse an address. The Python SDK sends a complete URI; its scheme and host are ignored."""
    path = address.split("://", 1)[1].partition("/")[2] if "://" in address else address
    path = path.strip("/").lower()
    if path == "$cbs":
        return Address(Node.CBS, "")
    if _SUBSCRIPTIONS in path:
        return Address(Node.SUBSCRIPTION, path)
    if path.endswith(_MANAGEMENT):
        return Address(Node.MANAGEMENT, path.removesuffix(_MANAGEMENT))
    return Address(Node.ENTITY, path)
