"""Shared access policies: who has which key may do what, with the namespace or with one queue.

Source: Microsoft Learn, "Service Bus access control with Shared Access Signatures": up to 12 policies for a namespace
or an entity, each with a primary and a secondary key; Manage includes Send and Listen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto

from servicebus_emulator.servicebus.config import ConfigError

MAX_POLICIES = 12
MAX_CHARACTERS = 256
"""Of a policy's name, and of a key."""
_FIELDS = ("KeyName", "ClaimType", "ClaimValue", "Rights", "PrimaryKey", "SecondaryKey")


class Right(Flag):
    """What one may do. MANAGE alone is not SEND or LISTEN: who grants it, grants all three (`ALL`)."""

    SEND = auto()
    LISTEN = auto()
    MANAGE = auto()

    def __str__(self) -> str:
        """In the service's words: `Send`, or `Send, Listen`."""
        return ", ".join(str(one.name).capitalize() for one in self)


ALL = Right.SEND | Right.LISTEN | Right.MANAGE


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy. `entity` is a queue's name in lower case, empty for the namespace."""

    name: str
    rights: Right
    keys: tuple[str, ...] = field(repr=False)
    entity: str = ""


DEVELOPMENT = Policy("RootManageSharedAccessKey", ALL, ("SAS_KEY_VALUE",))
"""What every client of a development emulator is set up with. Its key is public knowledge."""


def parse_policies(document: Mapping[str, object]) -> tuple[Policy, ...]:
    """The `AuthorizationRules` of `UserConfig.Namespaces[]` and of their `Queues[]`. Raises `ConfigError`.

    `DEVELOPMENT` comes on top, unless the namespace has a policy of that name. The rest of the document must be known
    to hold (`config.parse_entities`).
    """
    policies: list[Policy] = []
    for number, namespace in enumerate(_entries(document.get("UserConfig"), "Namespaces")):
        path = f"UserConfig.Namespaces[{number}]"
        policies += _rules(namespace, "", path)
        for index, queue in enumerate(_entries(namespace, "Queues")):
            policies += _rules(queue, str(queue.get("Name")).lower(), f"{path}.Queues[{index}]")
    return tuple(policies) if _has_development(policies) else (DEVELOPMENT, *policies)


def _has_development(policies: Iterable[Policy]) -> bool:
    return any(one.entity == "" and one.name.lower() == DEVELOPMENT.name.lower() for one in policies)


def _entries(value: object, name: str) -> list[Mapping[str, object]]:
    found = value.get(name) if isinstance(value, Mapping) else None
    return [entry for entry in found or () if isinstance(entry, Mapping)] if isinstance(found, list) else []


def _rules(owner: Mapping[str, object], entity: str, path: str) -> list[Policy]:
    path, given = f"{path}.AuthorizationRules", owner.get("AuthorizationRules", [])
    if not isinstance(given, list):
        raise ConfigError(path, "must be a JSON array")
    if len(given) > MAX_POLICIES:
        raise ConfigError(path, f"there are {len(given)} policies; {MAX_POLICIES} are allowed")
    policies = [_policy(rule, entity, f"{path}[{number}]") for number, rule in enumerate(given)]
    names = [policy.name.lower() for policy in policies]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"{path}[{number}].KeyName", f"there are two policies named '{name}'; names ignore case")
    return policies


def _policy(rule: object, entity: str, path: str) -> Policy:
    if not isinstance(rule, Mapping):
        raise ConfigError(path, "must be a JSON object")
    for name in rule:
        if name not in _FIELDS:
            raise ConfigError(f"{path}.{name}", f"no such property; known: {', '.join(_FIELDS)}")
    primary = _text(rule, "PrimaryKey", path)
    keys = (primary,) if rule.get("SecondaryKey") is None else (primary, _text(rule, "SecondaryKey", path))
    return Policy(_text(rule, "KeyName", path), _rights(rule.get("Rights"), f"{path}.Rights"), keys, entity)


def _text(rule: Mapping[str, object], name: str, path: str) -> str:
    value = rule.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CHARACTERS:
        raise ConfigError(f"{path}.{name}", f"must be a text of 1 to {MAX_CHARACTERS} characters")
    return value


def _rights(value: object, path: str) -> Right:
    known = {str(right): right for right in Right}
    if not isinstance(value, list) or not value:
        raise ConfigError(path, f"must be a JSON array of one or more of {', '.join(known)}")
    rights = Right(0)
    for number, name in enumerate(value):
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"{path}[{number}]", f"must be one of {', '.join(known)}")
        rights |= known[name]
    return ALL if Right.MANAGE in rights else rights
