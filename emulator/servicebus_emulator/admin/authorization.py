"""`AuthorizationRules`: the shared access policies of a queue as XML.

Output has the elements in the service's order; input may have them in any order. Source:
Microsoft Learn, "Service Bus REST: Create queue", and the serializer of azure-servicebus 7.15.
"""

from __future__ import annotations

import base64
import secrets
from xml.etree import ElementTree

from servicebus_emulator.admin.atom import CONNECT, tag, text
from servicebus_emulator.servicebus.access.policies import ALL_RIGHTS, MAX_CHARACTERS, MAX_POLICIES, Policy, Right
from servicebus_emulator.servicebus.errors import ARGUMENT_ERROR, ServiceBusError

_KIND = "SharedAccessAuthorizationRule"
_TEXTS = ("KeyName", "PrimaryKey", "SecondaryKey")
_READ_ONLY = ("ClaimType", "ClaimValue", "CreatedTime", "ModifiedTime")
_RIGHTS_ORDER = (Right.MANAGE, Right.SEND, Right.LISTEN)
"""The order in which the service writes the rights of a policy. Source: live tests of the JavaScript SDK."""
_KEY_BYTES = 32


def write_rules(policies: tuple[Policy, ...], *, created: str, updated: str) -> str:
    """Return the rules with their keys, as the service shows them to a client with the right Manage.

    Times are ISO 8601.
    """
    return tag("AuthorizationRules", "".join(_write_rule(policy, created, updated) for policy in policies))


def read_rules(rules: ElementTree.Element, queue: str) -> tuple[Policy, ...]:
    """Return the policies of a queue. A missing key is generated.

    Raises `ServiceBusError`, which names the faulty property.
    """
    if len(rules) > MAX_POLICIES:
        raise _invalid(f"there are {len(rules)} policies; {MAX_POLICIES} are allowed")
    policies = tuple(_read_rule(rule, queue.lower()) for rule in rules)
    names = [policy.name.lower() for policy in policies]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise _invalid(f"there are two policies named '{duplicate}'; names ignore case")
    return policies


def _write_rule(policy: Policy, created: str, updated: str) -> str:
    keys = "".join(text(name, key) for name, key in zip(("PrimaryKey", "SecondaryKey"), policy.keys, strict=False))
    return tag(
        "AuthorizationRule",
        text("ClaimType", "SharedAccessKey")
        + text("ClaimValue", "None")
        + tag("Rights", "".join(text("AccessRights", str(right)) for right in _RIGHTS_ORDER if right in policy.rights))
        + text("CreatedTime", created)
        + text("ModifiedTime", updated)
        + text("KeyName", policy.name)
        + keys,
        {"i:type": _KIND},
    )


def _read_rule(rule: ElementTree.Element, entity: str) -> Policy:
    values = {_name(child): child for child in rule}
    for name in values:
        if name not in (*_TEXTS, *_READ_ONLY, "Rights"):
            raise _invalid(f"{name}: there is no such property; known: {', '.join((*_TEXTS, 'Rights'))}")
    keys = tuple(_text(values, name) or _new_key() for name in ("PrimaryKey", "SecondaryKey"))
    name = _text(values, "KeyName")
    if not name:
        raise _invalid("KeyName: is required")
    return Policy(name, _rights(values.get("Rights")), keys, entity)


def _rights(element: ElementTree.Element | None) -> Right:
    known, rights = {str(right): right for right in Right}, Right(0)
    for child in () if element is None else element:
        if child.text not in known:
            raise _invalid(f"Rights: '{child.text}' must be one of {', '.join(known)}")
        rights |= known[child.text]
    if not rights:
        raise _invalid(f"Rights: must be one or more of {', '.join(known)}")
    return ALL_RIGHTS if Right.MANAGE in rights else rights


def _text(values: dict[str, ElementTree.Element], name: str) -> str:
    value = (values[name].text or "").strip() if name in values else ""
    if len(value) > MAX_CHARACTERS:
        raise _invalid(f"{name}: must be a text of at most {MAX_CHARACTERS} characters")
    return value


def _name(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(f"{{{CONNECT}}}")


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _invalid(fault: str) -> ServiceBusError:
    return ServiceBusError(ARGUMENT_ERROR, f"AuthorizationRules: {fault}.")
