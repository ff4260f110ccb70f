"""Cross-origin requests: which web pages may call the gateway, and what they may send and read."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from multidict import CIMultiDict

from flow_worker.telemetry.logs import log
from flow_worker.telemetry.seldom import Seldom

_log = logging.getLogger(__name__)

_ORIGIN: Final = re.compile(r"null|[a-z][a-z0-9+.-]{0,30}://[A-Za-z0-9._:\[\]-]{1,262}")
_ALLOWED_HEADERS: Final = (
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, On-Behalf-Of, Prefer, traceparent, tracestate"
)
_EXPOSED_HEADERS: Final = "Location, Preference-Applied, Retry-After"
_MAX_AGE_SECONDS: Final = 7200
"""Browsers cache the answer to a preflight request for two hours at most (Chromium)."""


class Cors:
    """The origins of the settings. Requests carry no cookies, so no response allows credentials."""

    def __init__(self, origins: Collection[str]) -> None:
        self._exact = frozenset(_without_default_port(origin) for origin in origins if "*" not in origin)
        # A scheme, and the end of the host with the port: `https`, `.crm4.dynamics.com`
        wildcards = (_without_default_port(origin).split("://*", 1) for origin in origins if "*" in origin)
        self._wildcards = tuple((scheme + "://", end) for scheme, end in wildcards)

    def allows(self, origin: str) -> bool:
        """Return whether pages of this origin may call the gateway. The wildcard stands for exactly one label."""
        if origin in self._exact:
            return True
        return any(
            origin.startswith(scheme) and origin.endswith(end) and _is_label(origin[len(scheme) : -len(end)])
            for scheme, end in self._wildcards
        )

    def apply(self, origin: str | None, headers: CIMultiDict[str]) -> bool:
        """Add the headers of a response to a request of this origin; return False if a browser withholds it."""
        if origin is None:
            return True
        if not self.allows(origin):
            return False
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        return True

    def apply_preflight(self, origin: str | None, methods: str, headers: CIMultiDict[str]) -> None:
        """Add the headers of the response to a preflight request. A page of another origin gets none."""
        if origin is not None and self.allows(origin):
            headers["Access-Control-Allow-Methods"] = methods
            headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            headers["Access-Control-Max-Age"] = str(_MAX_AGE_SECONDS)


class RefusedOrigins:
    """Logs the pages that may not call the gateway: a browser shows its user that something failed, and not what."""

    def __init__(self) -> None:
        self._seldom = Seldom()

    def note(self, origin: str, own_url: str) -> None:
        """Log the origin, once a minute. A browser names the origin of the gateway's own pages, too."""
        if origin.partition("://")[2] == urlsplit(own_url).netloc:
            return
        # Other clients write anything here. A browser writes no path, and no user name.
        shown = origin if _ORIGIN.fullmatch(origin) is not None else "invalid"
        if self._seldom.is_due(shown):
            sentence = (
                "A web page called the gateway, and its origin is not in gateway.allowed_origins. The browser "
                "withholds the answer from the page. Add the origin if the page is yours."
            )
            log(_log, logging.INFO, "gateway.origin_refused", sentence, origin=shown)


def _is_label(text: str) -> bool:
    return text.isascii() and text.replace("-", "").isalnum() and text == text.lower()


def _without_default_port(origin: str) -> str:
    """Browsers leave out the default port."""
    for scheme, port in (("https://", ":443"), ("http://", ":80")):
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin
