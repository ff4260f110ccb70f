"""`AuthorizationRules`: a queue's shared access policies in the administration's XML.

The elements of a rule come out in the order in which the service writes them; they are taken in any order. Source:
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
_TOLD_ONLY = ("ClaimType", "ClaimValue", "CreatedTime", "ModifiedTime")
_AS_TOLD = (Right.MANAGE, Right.SEND, Right.LISTEN)
"""The order in which the service tells a policy's rights, by the JavaScript SDK's live tests."""
_KEY_BYTES = 32


def told(policies: tuple[Policy, ...], *, created: str, updated: str) -> str:
    """The rules with their keys, as the service tells them to whoever may manage; times are ISO 8601."""
    return tag("AuthorizationRules", "".join(_told(one, created, updated) for one in policies))


def given(rules: ElementTree.Element, queue: str) -> tuple[Policy, ...]:
    """The policies of a queue that a description asks for. Raises `ServiceBusError`, naming what is wrong.

    A key that is not given is made.
    """
    if len(rules) > MAX_POLICIES:
        raise _bad(f"there are {len(rules)} policies; {MAX_POLICIES} are allowed")
    policies = tuple(_given(rule, queue.lower()) for rule in rules)
    names = [policy.name.lower() for policy in policies]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _bad(f"there are two policies named '{twice}'; names ignore case")
    return policies


def _told(policy: Policy, created: str, updated: str) -> str:
    keys = "".join(text(name, key) for name, key in zip(("PrimaryKey", "SecondaryKey"), policy.keys, strict=False))
    return tag(
        "AuthorizationRule",
        text("ClaimType", "SharedAccessKey")
        + text("ClaimValue", "None")
        + tag("Rights", "".join(text("AccessRights", str(right)) for right in _AS_TOLD if right in policy.rights))
        + text("CreatedTime", created)
        + text("ModifiedTime", updated)
        + text("KeyName", policy.name)
        + keys,
        {"i:type": _KIND},
    )


def _given(rule: ElementTree.Element, entity: str) -> Policy:
    values = {_name(child): child for child in rule}
    for name in values:
        if name not in (*_TEXTS, *_TOLD_ONLY, "Rights"):
            raise _bad(f"{name}: there is no such property; known: {', '.join((*_TEXTS, 'Rights'))}")
    keys = tuple(_text(values, name) or _made() for name in ("PrimaryKey", "SecondaryKey"))
    name = _text(values, "KeyName")
    if not name:
        raise _bad("KeyName: is required")
    return Policy(name, _rights(values.get("Rights")), keys, entity)


def _rights(element: ElementTree.Element | None) -> Right:
    known, rights = {str(right): right for right in Right}, Right(0)
    for child in () if element is None else element:
        if child.text not in known:
            raise _bad(f"Rights: '{child.text}' must be one of {', '.join(known)}")
        rights |= known[child.text]
    if not rights:
        raise _bad(f"Rights: must be one or more of {', '.join(known)}")
    return ALL_RIGHTS if Right.MANAGE in rights else rights


def _text(values: dict[str, ElementTree.Element], name: str) -> str:
    value = (values[name].text or "").strip() if name in values else ""
    if len(value) > MAX_CHARACTERS:
        raise _bad(f"{name}: must be a text of at most {MAX_CHARACTERS} characters")
    return value


def _name(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(f"{{{CONNECT}}}")


def _made() -> str:
    return base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()


def _bad(what: str) -> ServiceBusError:
    return ServiceBusError(ARGUMENT_ERROR, f"AuthorizationRules: {what}.")
