"""The page `/metrics`, as plain data: what an HTTP server answers to a scrape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a scrape."""

    body: bytes
    content_type: str
    status: int = 200


MetricsPage = Callable[[str], Awaitable[Page]]
"""Returns the page in the format that an `Accept` header prefers."""


def absent(reason: str, status: int) -> MetricsPage:
    """Return a page that says why there are no metrics, and what to do."""

    async def answer(_: str) -> Page:
        return Page(f"{reason}\n".encode(), "text/plain; charset=utf-8", status)

    return answer


no_metrics = absent("This endpoint serves no metrics.", 404)
