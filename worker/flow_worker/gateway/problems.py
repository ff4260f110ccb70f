"""The errors of the HTTP API as problem documents (RFC 9457). They quote no token, no input and no exception."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Final, NamedTuple

from aiohttp import web

from flow_worker.errors import Refused, TemporarilyUnavailable
from flow_worker.gateway.documents import ProblemDocument
from flow_worker.telemetry.metrics import OTHER

PROBLEMS_PATH: Final = "/problems"
MEDIA_TYPE: Final = "application/problem+json"
_UNAVAILABLE_RETRY_SECONDS: Final = 5


class Kind(NamedTuple):
    """A kind of problem, by its code."""

    status: int
    title: str
    is_retryable: bool = False


KINDS: Final[Mapping[str, Kind]] = {
    "malformed_request": Kind(400, "The request is malformed"),
    "claim_missing": Kind(401, "No access token"),
    "claim_invalid": Kind(401, "The access token is not valid"),
    "claim_issuer": Kind(401, "The access token is from another tenant"),
    "claim_audience": Kind(401, "The access token is for another audience"),
    "claim_client": Kind(401, "The access token is from another application"),
    "claim_scope": Kind(401, "The access token lacks the scope"),
    "claim_expired": Kind(401, "The access token has expired"),
    "claim_not_yet_valid": Kind(401, "The access token is not valid yet"),
    "flow_not_allowed": Kind(403, "The caller may start no such flow"),
    "unknown_flow": Kind(403, "There is no such flow"),
    "role_missing": Kind(403, "The caller lacks the app role"),
    "privilege_missing": Kind(403, "The user lacks the privilege"),
    "on_behalf_of_not_allowed": Kind(403, "The caller may not name this user"),
    "on_behalf_of_invalid": Kind(400, "On-Behalf-Of is no object ID"),
    "not_found": Kind(404, "Not found"),
    "method_not_allowed": Kind(405, "The method is not allowed"),
    "request_timeout": Kind(408, "The request came too slowly", True),
    "gone": Kind(410, "The result is gone"),
    "payload_too_large": Kind(413, "The input is too large"),
    "unsupported_media_type": Kind(415, "The input is no JSON"),
    "expectation_failed": Kind(417, "The gateway cannot meet the expectation"),
    "idempotency_key_reused": Kind(422, "The idempotency key belongs to another request"),
    "input_schema_mismatch": Kind(422, "The input does not match the flow's schema"),
    "input_too_complex": Kind(422, "The input is too complex"),
    "rate_limited": Kind(429, "Too many requests", True),
    "header_too_large": Kind(431, "A header field is too large"),
    "internal_error": Kind(500, "Internal error", True),
    "unavailable": Kind(503, "The gateway cannot take the request now", True),
}
"""`docs/reference/gateway.md` explains them, and so does the page at `PROBLEMS_PATH`."""


def bounded_problem(name: str) -> str:
    """Return a code of the list, for metrics and spans."""
    return name if name in KINDS else OTHER


_OF_STATUS: Final = {
    404: ("not_found", "There is nothing at this URL; see /openapi.json."),
    405: ("method_not_allowed", "This URL does not take this method; the header Allow names those that it takes."),
    413: ("payload_too_large", "The input is larger than the gateway takes (gateway.limits.max_body_bytes)."),
}


class Problem(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self, name: str, detail: str, *, retry_after: float | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """`name`: one of `KINDS`; a code that is not among them becomes a 403."""
        super().__init__(detail)
        self.name = name
        self.kind = KINDS.get(name) or Kind(403, "The request is refused")
        self.detail = detail
        self.headers = dict(headers or {})
        if retry_after is not None:
            # Rounded up: after the rounded-down time, the next attempt would come too early.
            self.headers["Retry-After"] = str(max(1, -int(-retry_after // 1)))

    def document(self, base_url: str, path: str) -> ProblemDocument:
        """Return the document for a request of this path. `base_url`: of the gateway."""
        return ProblemDocument(
            type=f"{base_url}{PROBLEMS_PATH}#{self.name}",
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            code=self.name,
            retryable=self.kind.is_retryable,
            instance=path,
        )

    def response(self, base_url: str, path: str) -> web.Response:
        """Return the response for a request of this path."""
        body = self.document(base_url, path).model_dump_json().encode()
        response = web.Response(body=body, status=self.kind.status, content_type=MEDIA_TYPE, headers=self.headers)
        if self.kind.status in (408, 413):
            response.force_close()  # the rest of the body is on its way
        return response


def of_refusal(refusal: Refused) -> Problem:
    """Return the problem of a refusal by the worker's own checks."""
    headers = {}
    if refusal.code.startswith("claim_"):
        error = {"claim_missing": "", "claim_scope": ' error="insufficient_scope"'}.get(
            refusal.code, ' error="invalid_token"'
        )
        headers["WWW-Authenticate"] = f"Bearer{error}"
    return Problem(refusal.code, refusal.message, headers=headers)


def of_outage(error: TemporarilyUnavailable | None = None) -> Problem:
    """Return the problem of an outage. What exactly is away is for the operator, in the log.

    It does not promise that nothing was accepted: the queue may have accepted a request and not answered in time.
    """
    detail = (
        "The gateway cannot take or answer the request at the moment. Send it again later, with the same "
        "Idempotency-Key if it has one."
    )
    return Problem("unavailable", detail, retry_after=_UNAVAILABLE_RETRY_SECONDS)


def of_http(error: web.HTTPException) -> Problem:
    """Return the problem of an error that aiohttp itself raised."""
    name, detail = _OF_STATUS.get(error.status, ("malformed_request", "The gateway cannot read this request."))
    allow = error.headers.get("Allow")
    return Problem(name, detail, headers={} if allow is None else {"Allow": allow})


def page() -> str:
    """Return the page that explains the codes."""
    rows = "".join(
        f'<tr id="{name}"><td><code>{name}</code><td>{kind.status}<td>{html.escape(kind.title)}'
        f"<td>{'yes' if kind.is_retryable else 'no'}"
        for name, kind in KINDS.items()
    )
    style = "body{font:1rem sans-serif;margin:2rem}td,th{padding:.3rem 1rem;text-align:left}tr:target{outline:solid}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Problems of the gateway</title><style>{style}</style><h1>Problems of the gateway</h1>"
        f"<table><thead><tr><th>Code<th>HTTP status<th>Meaning<th>May succeed later<tbody>{rows}</table></html>"
    )
