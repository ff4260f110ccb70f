"""Decides which status URLs the worker may poll, and whether it must send its token there."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from flow_worker.settings.clouds import host_matches


@dataclass(frozen=True, slots=True)
class StatusHosts:
    """The hosts of allowed status URLs: patterns such as `*.contoso.com` by https, and `host:port` without TLS."""

    patterns: tuple[str, ...] = ()
    plain: Collection[str] = ()

    def allow(self, url: str) -> bool:
        """Return whether the worker may poll this URL.

        The URL comes from a flow's answer and could name any host, even one inside the worker's network.
        """
        try:
            parts = urlsplit(url)
            # The port is parsed only when it is read, and raises ValueError if it is not a number.
            host, _ = parts.hostname, parts.port
        except ValueError:
            return False
        # User information before an "@" makes a URL show one host and lead to another.
        if not host or "@" in parts.netloc:
            return False
        if parts.scheme != "https":
            return parts.scheme == "http" and parts.netloc in self.plain
        return any(host_matches(host, pattern) for pattern in self.patterns)


NOWHERE = StatusHosts()


def is_signed(url: str) -> bool:
    """Return whether the URL carries its own authorization (`sig=`): flows refuse a bearer token beside it."""
    try:
        parameters = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return True  # An unreadable URL must not get the token.
    return any(name.lower() == "sig" for name, _ in parameters)
