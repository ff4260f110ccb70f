"""Checks a connection string of Service Bus, and says by name which part it cannot use. No message repeats a value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, get_args
from urllib.parse import urlsplit

Transport = Literal["amqp", "websocket"]
"""The transport of AMQP: a connection to port 5671, or a WebSocket to port 443, which passes proxies and firewalls."""

_NAMES = {
    name.lower(): name
    for name in (
        "Endpoint",
        "SharedAccessKeyName",
        "SharedAccessKey",
        "SharedAccessSignature",
        "TransportType",
        "UseDevelopmentEmulator",
    )
}
_TRANSPORTS: dict[str, Transport] = {
    "amqp": "amqp",
    "amqptcp": "amqp",
    "amqpwebsockets": "websocket",
    "amqpwebsocket": "websocket",
    "amqpoverwebsocket": "websocket",
}
_REMEDIES = {
    "authentication": "to use an identity instead of a key, give the namespace without a connection string",
    "hostname": "it belongs to an IoT hub; copy the connection string of the Service Bus namespace",
    "accountkey": "it belongs to a storage account; copy the connection string of the Service Bus namespace",
    "accountname": "it belongs to a storage account; copy the connection string of the Service Bus namespace",
}
_LOOKS_LIKE_A_NAME = re.compile(r"[A-Za-z]{1,30}")
"""Any other text can be a part of a key. A key has 44 characters."""
_KEY = (
    "connection_string must hold 'SharedAccessKeyName=…;SharedAccessKey=…' or 'SharedAccessSignature=…', and "
    "name=value between semicolons; copy all of it from the access policy and put it in quotes"
)


class InvalidConnectionString(ValueError):
    """A connection string cannot be used. The message says what to do, and repeats no value."""


@dataclass(frozen=True, slots=True)
class ConnectionParts:
    """A connection string as the SDK takes it, and the parts that the SDK ignores."""

    text: str = field(repr=False)
    host: str
    port: int | None
    transport: Transport | None
    """None if the connection string does not say."""
    is_emulator: bool


def parse_connection_string(text: str) -> ConnectionParts:
    """Check a connection string of a namespace. Raises `InvalidConnectionString`."""
    _require_text(text)
    values = _values(text)
    endpoint = values.get("endpoint", "")
    if not endpoint.lower().startswith("sb://"):
        raise InvalidConnectionString("connection_string must hold 'Endpoint=sb://…'; copy it from the access policy")
    _require_credential(values)
    host, port = _host(endpoint)
    transport = _transport(values.pop("transporttype", None))
    is_emulator = _flag(values.pop("usedevelopmentemulator", "false"))
    parts = [f"{_NAMES[name]}={value}" for name, value in values.items()]
    if is_emulator:
        parts.append("UseDevelopmentEmulator=true")  # the SDK knows this spelling only
    return ConnectionParts(";".join(parts), host, port, transport, is_emulator)


def _require_text(text: object) -> None:
    if isinstance(text, str):
        return
    kind = "None, as of an environment variable that is not set"
    found = kind if text is None else f"of type {type(text).__name__}"
    remedy = "its get_secret_value()" if hasattr(text, "get_secret_value") else "the namespace's connection string"
    raise InvalidConnectionString(f"connection_string is {found}; pass {remedy}, which begins with 'Endpoint=sb://'")


def check_transport(transport: Transport | None) -> None:
    """Raise `ValueError` for a transport other than those allowed; None leaves the choice to the connection string."""
    allowed = get_args(Transport)
    if transport is not None and transport not in allowed:
        raise ValueError(f"transport must be {' or '.join(repr(name) for name in allowed)}, or None for the default")


def _values(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    is_whole = True
    for part in filter(None, (part.strip() for part in text.strip().strip("'\"").split(";"))):
        name, equals, value = part.partition("=")
        key = name.strip().lower()
        if not equals:
            is_whole = False
            continue
        if key == "entitypath":
            raise InvalidConnectionString(
                "connection_string is for one entity (EntityPath=…); copy one of the whole namespace"
            )
        if key not in _NAMES:
            raise InvalidConnectionString(_unknown(name.strip()))
        if key in values:
            raise InvalidConnectionString(f"connection_string has '{_NAMES[key]}' twice; keep one of them")
        values[key] = value.strip()
    if not is_whole and "endpoint" in values:
        raise InvalidConnectionString(_KEY)
    return values


def _unknown(name: str) -> str:
    shown = f"the part '{name}'" if _LOOKS_LIKE_A_NAME.fullmatch(name) else "a part with an unknown name"
    remedy = _REMEDIES.get(name.lower(), f"remove it; the parts that count are {', '.join(_NAMES.values())}")
    return f"connection_string has {shown}, which has no effect here; {remedy}"


def _require_credential(values: dict[str, str]) -> None:
    by_key = [bool(values.get(name)) for name in ("sharedaccesskeyname", "sharedaccesskey")]
    by_signature = bool(values.get("sharedaccesssignature"))
    if by_signature and any(by_key):
        raise InvalidConnectionString("connection_string holds a key and a SharedAccessSignature; keep one of the two")
    if not by_signature and not all(by_key):
        raise InvalidConnectionString(_KEY)


def _host(endpoint: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise InvalidConnectionString(
            "connection_string has an Endpoint without a host; it must be of the form "
            "'Endpoint=sb://contoso.servicebus.windows.net/'"
        )
    return host, port


def _transport(value: str | None) -> Transport | None:
    if value is None:
        return None
    transport = _TRANSPORTS.get(value.lower())
    if transport is None:
        raise InvalidConnectionString("connection_string: TransportType must be Amqp or AmqpWebSockets")
    return transport


def _flag(value: str) -> bool:
    if value.lower() not in {"true", "false"}:
        raise InvalidConnectionString("connection_string: UseDevelopmentEmulator must be true or false")
    return value.lower() == "true"


_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|localhost")


def check_namespace(name: str) -> str:
    """Return the fully qualified name of a namespace. Raises `ValueError` with the form that it must have."""
    example = "contoso.servicebus.windows.net"
    if not isinstance(name, str):
        raise ValueError(f"the namespace must be a text such as '{example}', not {type(name).__name__}")  # noqa: TRY004
    if "sharedaccess" in name.lower() or "endpoint=" in name.lower():
        raise ValueError(
            "the namespace is a connection string; use from_connection_string, or give the host name alone, such as "
            f"'{example}'"
        )
    if _HOST.fullmatch(name):
        return name
    bare = re.sub(r"^[a-z]+://", "", name.strip(), flags=re.IGNORECASE).split("/")[0].partition(":")[0]
    if _HOST.fullmatch(bare):
        raise ValueError(f"the namespace must be the host name alone, without scheme, port and path; write '{bare}'")
    if re.fullmatch(r"[A-Za-z0-9-]{1,60}", bare):
        raise ValueError(
            f"the namespace must be the whole host name, with its domain; write '{bare}.servicebus.windows.net', or "
            "the domain of your cloud"
        )
    raise ValueError(f"the namespace must be a host name such as '{example}', without sb:// and port")
