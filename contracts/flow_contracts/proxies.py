"""Finds the HTTP proxy of a URL in the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.

The rules are those of curl, with the address ranges of Go in `NO_PROXY`. The name in lower case overrides the one in
capitals. A URL of `wss` has the proxy of `https`, and one of `ws` that of `http`.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

_SCHEMES: Final = {"https": "https", "wss": "https", "http": "http", "ws": "http"}
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LINK_LOCAL = ipaddress.ip_network("169.254.0.0/16")
"""The addresses of the machine's own metadata service, which issues the tokens of its managed identity."""


class InvalidProxy(ValueError):
    """A variable names no proxy that can be used. The message names the variable and no part of its value."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy."""

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """The URL without user name and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def url_with_password(self) -> str:
        """The URL with user name and password. No message and no log may contain it."""
        if self.user is None:
            return self.url
        return self.url.replace("://", f"://{quote(self.user, safe='')}:{quote(self.password, safe='')}@", 1)

    @property
    def headers(self) -> dict[str, str]:
        """The header that proves the caller to the proxy; none without a user name."""
        if self.user is None:
            return {}
        credentials = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {credentials}"}


class Proxies:
    """The proxies that the environment names, read once."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Raises `InvalidProxy` if a variable that counts names no HTTP proxy. Default: this process's environment."""
        variables = os.environ if environment is None else environment
        self._proxies = {scheme: _named(scheme, variables) for scheme in _DEFAULT_PORTS}
        self._bypass = tuple(_Bypass.parse(entry) for entry in _entries(_value("NO_PROXY", variables)[1]))

    def __bool__(self) -> bool:
        return any(self._proxies.values())

    def proxy_of(self, url: str) -> Proxy | None:
        """Return the proxy for a URL; None to connect directly."""
        parts = urlsplit(url)
        scheme = _SCHEMES.get(parts.scheme.lower())
        host = _in_letters(parts.hostname or "").rstrip(".")
        if scheme is None or (proxy := self._proxies[scheme]) is None or _is_link_local(host):
            return None
        port = parts.port or _DEFAULT_PORTS[scheme]
        return None if any(entry.covers(host, port) for entry in self._bypass) else proxy


def _named(scheme: str, variables: Mapping[str, str]) -> Proxy | None:
    for name in (f"{scheme.upper()}_PROXY", "ALL_PROXY"):
        variable, value = _value(name, variables)
        if value:
            return _parse(variable, value)
    return None


def _value(name: str, variables: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that counts, and its value."""
    lower = name.lower()
    if lower in variables:
        return lower, variables[lower].strip()
    if name == "HTTP_PROXY" and "REQUEST_METHOD" in variables:
        return name, ""  # in a CGI program, the header `Proxy` of any client would have this name
    return name, variables.get(name, "").strip()


def _parse(variable: str, value: str) -> Proxy:
    parts = _split(variable, value if _SCHEME.match(value) else f"http://{value}")
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise InvalidProxy(
            f"{variable}: a proxy of the scheme '{scheme}' is not supported; name an HTTP proxy such as "
            "http://proxy.example:3128, or unset it"
        )
    if not parts.hostname:
        raise InvalidProxy(f"{variable}: not the URL of a proxy; write it as http://proxy.example:3128")
    user = None if parts.username is None else unquote(parts.username)
    if parts.port == 0:
        raise InvalidProxy(f"{variable}: port 0 is no port of a proxy; name the port, as in http://proxy.example:3128")
    port = parts.port or _DEFAULT_PORTS[scheme]
    return Proxy(scheme, parts.hostname, port, user, unquote(parts.password or ""))


def _split(variable: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # The text of the error can repeat the password.
        raise InvalidProxy(
            f"{variable}: not the URL of a proxy; write it as http://proxy.example:3128, with special characters of a "
            "password percent-encoded"
        ) from None
    return parts


def _is_link_local(host: str) -> bool:
    address = _address(host)
    return address is not None and address.version == 4 and address in _LINK_LOCAL


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


# --- NO_PROXY -------------------------------------------------------------------------------------------------------


def _in_letters(host: str) -> str:
    """Return a host name in the letters of its language: the other form of each label begins with `xn--`."""
    if host.isascii() and "xn--" not in host:
        return host
    normal = unicodedata.normalize("NFKC", host.replace("\u3002", ".")).lower()
    return ".".join(_label_in_letters(label) for label in normal.split("."))


def _label_in_letters(label: str) -> str:
    if not label.startswith("xn--"):
        return label
    try:
        return label.removeprefix("xn--").encode("ascii").decode("punycode")
    except UnicodeError:
        return label


def _entries(value: str) -> list[str]:
    return [entry for entry in re.split(r"[,\s]+", value) if entry]


@dataclass(frozen=True, slots=True)
class _Bypass:
    """One entry of `NO_PROXY`: everything, a domain with its subdomains, an address or a range, perhaps with a port."""

    domain: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> _Bypass:
        host, port = _host_and_port(_in_letters(entry.lower()))
        try:
            return cls("", ipaddress.ip_network(host, strict=False), port)
        except ValueError:
            return cls(host if host == "*" else host.removeprefix("*").strip("."), None, port)

    def covers(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            address = _address(host)
            return address is not None and address.version == self.network.version and address in self.network
        return self.domain == "*" or (bool(self.domain) and (host == self.domain or host.endswith(f".{self.domain}")))


def _host_and_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"\[([^\]]*)\](/\d+)?(?::(\d+))?", entry) or re.fullmatch(r"([^:]*)()(?::(\d+))?", entry)
    if match is None:  # an address of IPv6 without brackets
        return entry, None
    return match[1] + (match[2] or ""), int(match[3]) if match[3] else None
