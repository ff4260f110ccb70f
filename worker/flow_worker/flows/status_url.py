"""Decides which status URLs the worker may poll, and where its token may go: to the flow's own workflow only."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import parse_qsl, unquote, urljoin

from flow_worker.settings.clouds import host_matches

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/(?:[\w.~!$&'()*+,;=:@-]|%[0-9a-f]{2})*)*)"
    r"(?:\?(?P<query>(?:[\w.~!$&'()*+,;=:@/?-]|%[0-9a-f]{2})*))?",
    re.ASCII | re.IGNORECASE,
)
"""The URLs of RFC 3986 that every parser reads alike: no user information, fragment, backslash, space or control."""
_REFERENCE = re.compile(r"[\w.~!$&'()*+,;=:@/?%-]+", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_AMBIGUOUS_ESCAPE = re.compile(r"%(?:[01][0-9a-f]|7f|2e|2f|5c|25)", re.IGNORECASE)
"""Parsers differ on whether an escaped slash separates segments, and on what they do with escaped controls."""
_ESCAPED_OCTET = re.compile(r"%[89a-f]", re.IGNORECASE)
_WORKFLOW = re.compile(r".*?/workflows/[^/]+(?=/|$)", re.IGNORECASE)
_NOT_LETTER = re.compile(r"[^a-z]", re.IGNORECASE | re.ASCII)
_DEFAULT_PORTS = {"https": 443, "http": 80}


class PollAccess(Enum):
    """The worker's way to poll a status URL."""

    REFUSED = auto()
    """The URL is malformed, or leads to a host or a port that the worker may not poll."""
    NOT_SIGNED = auto()
    """The URL leads to another workflow and carries no signature. The worker's token must not go there."""
    SIGNED = auto()
    """The URL carries its own authorization; flows refuse a bearer token beside it."""
    WITH_TOKEN = auto()


@dataclass(frozen=True, slots=True)
class _Parsed:
    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


@dataclass(frozen=True, slots=True)
class StatusHosts:
    """The hosts of allowed status URLs: patterns such as `*.contoso.com` by https, and `host:port` without TLS."""

    patterns: tuple[str, ...] = ()
    plain: Collection[str] = ()

    def access(self, url: str, flow_url: str) -> PollAccess:
        """Return the way to poll a status URL of the flow at `flow_url`.

        The URL comes from a flow's answer and could name any host, even one inside the worker's network. Two flows may
        have different owners, so only the called flow gets a token for its run.
        """
        parsed, flow = _parse(url), _parse(flow_url)
        if parsed is None or _AMBIGUOUS_ESCAPE.search(parsed.path) or _has_dot_segment(parsed.path):
            return PollAccess.REFUSED
        is_own_origin = flow is not None and parsed.origin == flow.origin
        if not (is_own_origin or self._allow(parsed)):
            return PollAccess.REFUSED
        if is_signed(url):
            return PollAccess.SIGNED
        if flow is not None and is_own_origin and _is_run_of(flow.path, parsed.path):
            return PollAccess.WITH_TOKEN
        return PollAccess.NOT_SIGNED

    def _allow(self, url: _Parsed) -> bool:
        if url.scheme == "http":
            names = {f"{url.host}:{url.port}"} | ({url.host} if url.port == _DEFAULT_PORTS["http"] else set())
            return any(plain.lower() in names for plain in self.plain)
        # Another port may belong to another service on the host.
        return url.port == _DEFAULT_PORTS["https"] and any(host_matches(url.host, pattern) for pattern in self.patterns)


NOWHERE = StatusHosts()


def resolve(base: str, location: str) -> str:
    """Return the absolute URL of a `Location`. An unusable one is returned as it is: `StatusHosts` refuses it.

    It is not None, which would mean a run without a status URL.
    """
    is_absolute = _SCHEME.match(location) is not None
    if is_absolute or not _REFERENCE.fullmatch(location):
        return location
    if location.startswith("//"):
        return base.partition(":")[0] + ":" + location
    return urljoin(base, location)


def is_signed(url: str) -> bool:
    """Return whether the URL carries its own authorization (`sig=`): flows refuse a bearer token beside it."""
    if _parse(url) is None:
        return True  # An unreadable URL must not get the token.
    return any(name.lower() == "sig" for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True))


def _parse(url: str) -> _Parsed | None:
    """Return the parts of a URL that every parser reads alike, else None."""
    match = _URL.fullmatch(url)
    if match is None:
        return None
    scheme = match["scheme"].lower()
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    return _Parsed(scheme, match["host"].lower(), port, match["path"]) if 0 < port < 65536 else None


def _has_dot_segment(path: str) -> bool:
    """Return whether a parser may take a segment for `.` or `..`, and then read another path.

    Some cut the parameters of a segment first, or its spaces, or dots at its end.
    """
    names = (unquote(segment).partition(";")[0] for segment in path.split("/"))
    return any("." in name and not name.strip(". ") for name in names)


def _is_run_of(flow_path: str, path: str) -> bool:
    """Return whether the path is below that of the flow's workflow, and not below triggers, which start runs.

    Without a workflow in the flow's path, its runs are below the path of its trigger. Servers differ on whether they
    drop an empty segment, decode a segment, or cut its parameters, so this accepts no spelling of a trigger. They
    differ on octets beyond ASCII too: overlong and wide forms of letters and dots. Runs have none.
    """
    if _ESCAPED_OCTET.search(path):
        return False
    match = _WORKFLOW.match(flow_path)
    # Azure ignores case in paths. The paths of two workflows differ by more than case.
    folder = (match[0] if match else flow_path.rstrip("/")).lower()
    if not path.lower().startswith(f"{folder}/"):
        return False
    return not any(_may_be_trigger(segment) for segment in path[len(folder) + 1 :].removesuffix("/").split("/"))


def _may_be_trigger(segment: str) -> bool:
    return not segment or _NOT_LETTER.sub("", unquote(segment)).lower().startswith("triggers")
