"""Recognises the variables that Kubernetes adds to each container for the Services of its namespace.

A Service with the name `flow-worker` has variables with this worker's prefix (Kubernetes documentation, "Service",
section "Environment variables"). No person wrote them, so they are no misspelt settings.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

_URL = re.compile(r"(tcp|udp|sctp)://(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5}")
_NUMBER = re.compile(r"[0-9]{1,5}")


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_url(value: str) -> bool:
    return _URL.fullmatch(value) is not None


def _is_number(value: str) -> bool:
    return _NUMBER.fullmatch(value) is not None


def _is_protocol(value: str) -> bool:
    return value in {"tcp", "udp", "sctp"}


_PORT = r"PORT_[0-9]{1,5}_(TCP|UDP|SCTP)"
_FORMS: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = tuple(
    (re.compile(rf"[A-Z][A-Z0-9_]*_{form}"), has_form)
    for form, has_form in (
        ("SERVICE_HOST", _is_address),
        ("SERVICE_PORT(_[A-Z0-9_]+)?", _is_number),
        (f"(PORT|{_PORT})", _is_url),
        (f"{_PORT}_PROTO", _is_protocol),
        (f"{_PORT}_PORT", _is_number),
        (f"{_PORT}_ADDR", _is_address),
    )
)


def is_of_kubernetes(variable: str, value: str) -> bool:
    """Return whether Kubernetes, and no person, set this variable: by the forms of its name and of its value."""
    return any(form.fullmatch(variable) and has_form(value) for form, has_form in _FORMS)
