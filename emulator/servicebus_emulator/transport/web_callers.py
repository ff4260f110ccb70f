"""Decides which callers the HTTP and WebSocket listeners answer: programs of this machine, and no foreign web page.

A browser lets every page send requests to this machine. With `POST /emulator/token` a page could get a token, and with
the public key of `RootManageSharedAccessKey` it could read and change every queue. Two headers show it, because pages
cannot set them:

- `Host` has the page's own name if that name now resolves to this machine (DNS rebinding).
- `Origin` names another site. Browsers send it with every WebSocket and with every POST or PUT, also with those that
  need no preflight (a form, or a body of `text/plain`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/@?#]+)", re.IGNORECASE | re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_FOREIGN_SITES = frozenset({"cross-site", "same-site"})
"""The values of `Sec-Fetch-Site` for requests from another origin (W3C, "Fetch Metadata Request Headers")."""

_Origin = tuple[str, str, int]
"""Scheme, host and port."""


class Headers(Protocol):
    """The headers of a request."""

    def getall(self, key: str, default: Sequence[str]) -> Sequence[str]:
        """Return all values of a header."""
        ...


@dataclass(frozen=True, slots=True)
class WebCallers:
    """The names by which callers may address the listeners, beside those of the loopback, and the origins of pages."""

    hosts: frozenset[str] = field(default_factory=frozenset)
    origins: frozenset[_Origin] = field(default_factory=frozenset)

    @classmethod
    def parse(cls, hosts: Iterable[str], origins: Iterable[str]) -> Self:
        """Return the callers that the command line allows. Raises `ValueError`, which names the option."""
        return cls(frozenset(map(_parse_host, hosts)), frozenset(map(_parse_origin, origins)))

    def with_host(self, host: str) -> WebCallers:
        """Allow the address that a listener is bound to: the user chose it."""
        return replace(self, hosts=self.hosts | {host.lower()}) if host else self

    def refusal(self, headers: Headers, scheme: str) -> str | None:
        """Return why a request with these headers is refused; None if it is allowed. `scheme` is the listener's."""
        match list(headers.getall("Host", ())):
            case [host] if (authority := _authority(host)) and self._is_ours(authority[0]):
                pass
            case _:
                return (
                    "The Host header is no name of the loopback (localhost, 127.0.0.1, [::1]). If this name leads to "
                    "the emulator, start it with --allow-host NAME."
                )
        own = (scheme, authority[0], authority[1] or _DEFAULT_PORTS[scheme])
        origins = headers.getall("Origin", ())
        if any(_origin(origin) not in {own, *self.origins} for origin in origins):
            return (
                "The Origin header names another site. If its pages may use the emulator, start it with "
                "--allow-origin ORIGIN."
            )
        if not origins and not _FOREIGN_SITES.isdisjoint(headers.getall("Sec-Fetch-Site", ())):
            return "A page of another site sent this request."
        return None

    def _is_ours(self, host: str) -> bool:
        return host == "localhost" or host in self.hosts or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _authority(text: str) -> tuple[str, int | None] | None:
    """Return host, in lower case, and port of a `Host` header; None if it is malformed."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    host = (match["v6"] or match["name"].removesuffix(".")).lower()
    return host, None if match["port"] is None else int(match["port"])


def _origin(text: str) -> _Origin | None:
    """Return the parts of an origin; None if it is malformed or opaque (`null`)."""
    match = _ORIGIN.fullmatch(text)
    authority = None if match is None else _authority(match["authority"])
    if match is None or authority is None:
        return None
    scheme = match["scheme"].lower()
    return scheme, authority[0], authority[1] or _DEFAULT_PORTS[scheme]


def _parse_host(text: str) -> str:
    authority = _authority(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)
    if authority is None or authority[1] is not None:
        raise ValueError(f"--allow-host: '{text}' must be a name or an address without port, such as emulator")
    return authority[0]


def _parse_origin(text: str) -> _Origin:
    origin = _origin(text)
    if origin is None:
        raise ValueError(f"--allow-origin: '{text}' must be scheme, host and port, such as http://localhost:3000")
    return origin
