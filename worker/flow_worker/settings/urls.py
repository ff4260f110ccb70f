"""Checks of the URLs in the settings, and the form in which error messages repeat them."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

_MAX_PORT = 65_535
_MAX_SHOWN_CHARACTERS = 100


def split(setting: str, url: str, remedy: str, *, is_secret: bool) -> SplitResult:
    """Return the parts of an absolute URL. Raises `ValueError` that names the setting, and the URL if not secret."""
    try:
        parts: SplitResult | None = urlsplit(url)
    except ValueError:  # brackets without an IPv6 address
        parts = None
    port = _port(parts) if parts is not None else None
    if port is not None and not 1 <= port <= _MAX_PORT:
        found = "" if is_secret else f" {port}"
        raise ValueError(f"{setting} has a port out of range{found}; a port is a number from 1 to {_MAX_PORT}")
    if parts is None or not _is_absolute(parts):
        value = "" if is_secret else f", but '{shown(url)}'"
        raise ValueError(f"{setting} is not an absolute URL{value}; {remedy}")
    return parts


def _is_absolute(parts: SplitResult) -> bool:
    try:
        return bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number
        return False


def _port(parts: SplitResult) -> int | None:
    """Return the port as it is written, in or out of range; None without a port of ASCII digits."""
    found = re.search(r":([0-9]{1,20})$", parts.netloc)
    return int(found[1]) if found else None


def not_https(setting: str, parts: SplitResult) -> str:
    """Return the error of a URL without TLS."""
    host = parts.netloc.rpartition("@")[2]
    return f"{setting} is not https but {parts.scheme}; use https, or name '{host}' in plain_http_hosts"


def shown(url: str) -> str:
    """Return the URL for an error message, without user name, password, query and fragment: they can be secrets."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, slashes, rest = bare.rpartition("//")
    text = f"{scheme}{slashes}{rest.rpartition('@')[2]}"
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}…"
