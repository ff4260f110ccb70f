"""The URL under which a flow's run can be asked for its outcome: who may be asked, and with what."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from flow_worker.settings.clouds import host_matches


@dataclass(frozen=True, slots=True)
class StatusHosts:
    """Where status URLs may lead: host patterns (`*.contoso.com`) by https, and `host:port` without TLS."""

    patterns: tuple[str, ...] = ()
    plain: Collection[str] = ()

    def allow(self, url: str) -> bool:
        """Whether the worker may ask this URL: a flow writes it, so it could name any host."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            return False
        if not host or "@" in parts.netloc:
            return False
        if parts.scheme != "https":
            return parts.scheme == "http" and parts.netloc in self.plain
        return any(host_matches(host, pattern) for pattern in self.patterns)


NOWHERE = StatusHosts()


def is_signed(url: str) -> bool:
    """Whether the URL carries its own authorization (`sig=`): flows refuse a bearer beside it."""
    try:
        parameters = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return True  # not to be read: it gets no bearer
    return any(name.lower() == "sig" for name, _ in parameters)
