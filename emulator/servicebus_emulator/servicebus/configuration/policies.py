"""Parses shared access policies of the official emulator's `config.json` (`AuthorizationRules`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from servicebus_emulator.servicebus.access.policies import (
    ALL_RIGHTS,
    DEVELOPMENT_POLICY,
    MAX_CHARACTERS,
    MAX_POLICIES,
    Policy,
    Right,
)
from servicebus_emulator.servicebus.configuration.fields import ConfigError, as_array, as_object, require_known

_FIELDS = ("KeyName", "ClaimType", "ClaimValue", "Rights", "PrimaryKey", "SecondaryKey")


def parse_policies(document: Mapping[str, object]) -> tuple[Policy, ...]:
    """Return the policies of `UserConfig.Namespaces[]` and of their `Queues[]`. Raises `ConfigError`.

    Adds `DEVELOPMENT_POLICY` unless the namespace has a policy of that name. The caller must have checked the rest of
    the document with `parse_queues`; entries of another shape are skipped here.
    """
    policies: list[Policy] = []
    for number, namespace in enumerate(_entries(document.get("UserConfig"), "Namespaces")):
        path = f"UserConfig.Namespaces[{number}]"
        policies += _authorization_rules(namespace, "", path)
        for index, queue in enumerate(_entries(namespace, "Queues")):
            policies += _authorization_rules(queue, str(queue.get("Name")).lower(), f"{path}.Queues[{index}]")
    return tuple(policies) if _has_development_policy(policies) else (DEVELOPMENT_POLICY, *policies)


def _has_development_policy(policies: Iterable[Policy]) -> bool:
    name = DEVELOPMENT_POLICY.name.lower()
    return any(policy.entity == "" and policy.name.lower() == name for policy in policies)


def _entries(value: object, name: str) -> list[Mapping[str, object]]:
    entries = value.get(name) if isinstance(value, Mapping) else None
    return [entry for entry in entries or () if isinstance(entry, Mapping)] if isinstance(entries, list) else []


def _authorization_rules(owner: Mapping[str, object], entity: str, path: str) -> list[Policy]:
    path = f"{path}.AuthorizationRules"
    rules = as_array(owner.get("AuthorizationRules", []), path)
    if len(rules) > MAX_POLICIES:
        raise ConfigError(path, f"there are {len(rules)} policies; {MAX_POLICIES} are allowed")
    policies = [_policy(rule, entity, f"{path}[{number}]") for number, rule in enumerate(rules)]
    names = [policy.name.lower() for policy in policies]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"{path}[{number}].KeyName", f"there are two policies named '{name}'; names ignore case")
    return policies


def _policy(value: object, entity: str, path: str) -> Policy:
    rule = as_object(value, path)
    require_known(rule, _FIELDS, path)
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
    return ALL_RIGHTS if Right.MANAGE in rights else rights  # Manage includes Send and Listen
