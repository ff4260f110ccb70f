"""Cross-origin access to the Web API, for the pages that `--allow-origin` names.

Dataverse answers pages of other origins that have a bearer (Microsoft Learn, "Use OAuth with Cross-Origin Resource
Sharing"). The web server has refused every other origin before (`transport.web_guard`).
"""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web

_METHODS = "GET, POST, PATCH, DELETE"
_EXPOSED = "ETag, OData-EntityId, OData-Version, Preference-Applied, Retry-After"
_MAX_AGE_SECONDS = 600
_R = TypeVar("_R", bound=web.StreamResponse)


def preflight(request: web.Request) -> web.Response:
    """Return the answer to `OPTIONS`."""
    allowed = request.headers.get("Access-Control-Request-Headers", "")
    headers = {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": str(_MAX_AGE_SECONDS)}
    return share(request, web.Response(status=204, headers=headers | {"Access-Control-Allow-Headers": allowed}))


def share(request: web.Request, response: _R) -> _R:
    """Let the page that sent the request read the response."""
    origin = request.headers.get("Origin")
    if origin is not None:
        response.headers.update(
            {
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Expose-Headers": _EXPOSED,
                "Vary": "Origin",
            }
        )
    return response
