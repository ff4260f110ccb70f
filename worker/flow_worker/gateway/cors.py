"""Cross-origin requests: which web pages may call the gateway, and what they may send and read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from multidict import CIMultiDict

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

    def apply(self, origin: str | None, headers: CIMultiDict[str]) -> None:
        """Add the headers of a response to a request of this origin."""
        if origin is not None and self.allows(origin):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS

    def apply_preflight(self, origin: str | None, methods: str, headers: CIMultiDict[str]) -> None:
        """Add the headers of the response to a preflight request. A page of another origin gets none."""
        if origin is not None and self.allows(origin):
            headers["Access-Control-Allow-Methods"] = methods
            headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
            headers["Access-Control-Max-Age"] = str(_MAX_AGE_SECONDS)


def _is_label(text: str) -> bool:
    return text.isascii() and text.replace("-", "").isalnum() and text == text.lower()


def _without_default_port(origin: str) -> str:
    """Browsers leave out the default port."""
    for scheme, port in (("https://", ":443"), ("http://", ":80")):
        if origin.startswith(scheme):
            return origin.removesuffix(port)
    return origin
