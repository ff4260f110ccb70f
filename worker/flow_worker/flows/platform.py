"""Recognizes the errors that Power Automate itself returns in place of a flow, and knows the remedy for each.

The bodies are those that callers of the direct endpoint report. The platform and a flow's own Response action may use
the same status; `is_from_platform` tells their answers apart.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from flow_worker.flows.answer import Answer, Content
from flow_worker.masking import masked


class PlatformCode(StrEnum):
    """The error codes with a specific remedy. The platform also returns others."""

    TRIGGER_INPUT_SCHEMA_MISMATCH = "TriggerInputSchemaMismatch"
    WORKFLOW_TRIGGER_IS_NOT_ENABLED = "WorkflowTriggerIsNotEnabled"
    DIRECT_API_AUTHORIZATION_REQUIRED = "DirectApiAuthorizationRequired"
    DIRECT_API_INVALID_AUTHORIZATION_SCHEME = "DirectApiInvalidAuthorizationScheme"
    DIRECT_API_REQUEST_HAS_MORE_THAN_ONE_AUTHORIZATION = "DirectApiRequestHasMoreThanOneAuthorization"
    DIRECT_API_INVALID_AUTHORIZATION_SIGNATURE = "DirectApiInvalidAuthorizationSignature"
    OAUTH_ACCESS_POLICY_NOT_FOUND = "OAuthAccessPolicyNotFound"
    MISMATCHING_OAUTH_CLAIMS = "MisMatchingOAuthClaims"
    AUTHORIZATION_FAILED = "AuthorizationFailed"
    WORKFLOW_NOT_FOUND = "WorkflowNotFound"
    WORKFLOW_RUN_NOT_FOUND = "WorkflowRunNotFound"
    METHOD_NOT_ALLOWED = "MethodNotAllowed"
    NO_RESPONSE = "NoResponse"


REMEDIES: Mapping[PlatformCode, str] = {
    PlatformCode.TRIGGER_INPUT_SCHEMA_MISMATCH: (
        "The input does not fit the schema of the flow's trigger: send what the schema asks for, or correct the schema."
    ),
    PlatformCode.WORKFLOW_TRIGGER_IS_NOT_ENABLED: (
        "The flow is turned off, suspended or deleted: turn it on. If it was created again, put its new URL into the "
        "worker's settings."
    ),
    PlatformCode.DIRECT_API_AUTHORIZATION_REQUIRED: (
        "The flow received no token that it accepts: set its trigger to 'Specific users in my tenant' and copy its URL "
        "again."
    ),
    PlatformCode.DIRECT_API_INVALID_AUTHORIZATION_SCHEME: (
        "The flow does not accept the worker's token, not even a new one: check that the trigger is set to 'Specific "
        "users in my tenant' and that the worker's cloud is the flow's."
    ),
    PlatformCode.DIRECT_API_REQUEST_HAS_MORE_THAN_ONE_AUTHORIZATION: (
        "The flow's URL carries a signature beside the token: set its trigger to 'Specific users in my tenant' and "
        "copy its URL again."
    ),
    PlatformCode.DIRECT_API_INVALID_AUTHORIZATION_SIGNATURE: (
        "The flow's URL carries an invalid signature: set its trigger to 'Specific users in my tenant' and copy its "
        "URL again."
    ),
    PlatformCode.OAUTH_ACCESS_POLICY_NOT_FOUND: (
        "The flow's trigger accepts signed URLs only: set it to 'Specific users in my tenant' and copy its URL again."
    ),
    # The Flow service's scope is its resource "https://service.flow.microsoft.com/" followed by "/.default": hence two
    # slashes. With one, the token's audience lacks its trailing slash, and the flow refuses the token with this code.
    PlatformCode.MISMATCHING_OAUTH_CLAIMS: (
        "The flow's access policy does not admit the worker's identity. Check three causes: the token's audience lacks "
        "its trailing slash (the scope needs two: '…//.default'); the trigger's list of allowed users holds an "
        "application ID instead of the identity's object ID; or the trigger admits no app-only tokens in its present "
        "mode."
    ),
    PlatformCode.AUTHORIZATION_FAILED: (
        "The flow admits only certain IP addresses: allow the worker's outbound addresses."
    ),
    PlatformCode.WORKFLOW_NOT_FOUND: (
        "There is no flow at its URL: copy the URL from the flow's trigger into the worker's settings."
    ),
    PlatformCode.WORKFLOW_RUN_NOT_FOUND: (
        "The platform does not know the flow's run any more: check the flow's run history."
    ),
    PlatformCode.METHOD_NOT_ALLOWED: "The flow's trigger does not accept POST: set its method to POST.",
    PlatformCode.NO_RESPONSE: (
        "The flow's run gave no answer: an action before its Response failed, or it took longer than the 120 s that a "
        "call may last. For longer runs make the Response asynchronous."
    ),
}
"""One sentence for the flow's owner for each code."""

_REMEDIES_BY_STATUS: Mapping[int, str] = {
    400: "The flow's endpoint could not make sense of the call.",
    401: "The flow does not accept the worker's token, not even a new one: check its trigger's access settings.",
    403: "The flow's endpoint forbids the call: check its trigger's access settings and its caller restrictions.",
    404: REMEDIES[PlatformCode.WORKFLOW_NOT_FOUND],
    405: REMEDIES[PlatformCode.METHOD_NOT_ALLOWED],
    408: "The flow's answer did not come in time.",
    429: "The flow is called more often than its limits allow.",
    502: "The flow's answer did not reach the worker.",
    503: "The flow's endpoint is not available at the moment.",
    504: "The flow's answer did not come in time.",
}

_KNOWN_CODES: Mapping[str, PlatformCode] = {code.value: code for code in PlatformCode}
_NEW_TOKEN_CODES = frozenset(
    {PlatformCode.DIRECT_API_AUTHORIZATION_REQUIRED, PlatformCode.DIRECT_API_INVALID_AUTHORIZATION_SCHEME}
)
_GATEWAY_CODES = frozenset({"NoResponse", "GatewayTimeout", "RequestTimeout", "BadGateway", "ServiceUnavailable"})
"""Codes that the platform returns although a run may have begun."""
_TIMEOUT_CODES = frozenset({"NoResponse", "GatewayTimeout", "RequestTimeout"})
"""The platform's words for a run that took too long, which its input may have caused."""
_MAX_TEXT_CHARACTERS = 10_000
_MAX_UNDECLARED_BYTES = 16 * 1024
_UNANSWERED_STATUSES = frozenset({408, 502, 503, 504})
_GATEWAY_STATUSES = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The readable parts of an error's body. `is_json` is false for HTML pages, plain text and empty bodies."""

    code: str | None
    message: str | None
    is_json: bool
    is_gateway_error: bool = False
    """The body is a gateway's `{"statusCode", "message"}`."""


def read_error(content: Content) -> ErrorBody:
    """Return the code and the message of `{"error": {"code", "message"}}` or of `{"statusCode", "message"}`."""
    if content.unread is not None:
        return ErrorBody(None, None, is_json=False)  # perhaps a gateway's page: a run may have begun behind it
    try:
        document = content.output if content.encoding == "json" else _parsed(content)
    except (ValueError, RecursionError):
        return ErrorBody(None, None, is_json=False)
    if not isinstance(document, dict):
        return ErrorBody(None, None, is_json=True)
    error = document.get("error")
    if isinstance(error, dict):
        return ErrorBody(_text(error.get("code")), _text(error.get("message")), is_json=True)
    is_gateway_error = isinstance(document.get("statusCode"), int) and isinstance(document.get("message"), str)
    message = _text(document["message"]) if is_gateway_error else None
    return ErrorBody(None, message, is_json=True, is_gateway_error=is_gateway_error)


def _parsed(content: Content) -> JsonValue:
    """Parse a body that is JSON without saying so, or that is not strict JSON. Raises `ValueError`."""
    output = content.output if isinstance(content.output, str) else ""
    if content.size > _MAX_UNDECLARED_BYTES:
        if output.lstrip()[:1] in ("{", "["):
            return None  # JSON, but too large for an error of the platform
        raise ValueError("not JSON")
    body: str | bytes = base64.b64decode(output) if content.encoding == "base64" else output
    document: JsonValue = json.loads(body)
    return document


def is_from_platform(answer: Answer, error: ErrorBody) -> bool:
    """Return whether the platform wrote this error, rather than the flow's own Response action.

    The platform names no run in an error from before the run. So an answer with a run ID comes from the flow. The
    exceptions are the platform's answers in place of a run that gave none. Without a run ID, JSON of an unknown form
    counts as the flow's own: no source guarantees that every endpoint names its runs.
    """
    if answer.run_id is not None:
        return error.code in _GATEWAY_CODES or (answer.status in _UNANSWERED_STATUSES and not error.is_json)
    return error.code is not None or error.is_gateway_error or not error.is_json


def may_hide_a_run(answer: Answer, error: ErrorBody) -> bool:
    """Return whether a run may have begun behind this error of the platform, without an answer."""
    return error.code in _GATEWAY_CODES or answer.status == 408 or answer.status >= 500


def is_down(answer: Answer, error: ErrorBody) -> bool:
    """Return whether an error of the platform says that the flow or its host is down.

    Behind an error that names a run, or says that a run gave no answer in time, the flow works: the input may have
    made the run fail or take too long. A page that is no JSON comes from a gateway that reaches nothing behind it.
    """
    if answer.run_id is not None or error.code in _TIMEOUT_CODES:
        return False
    return answer.status == 503 or (answer.status in _GATEWAY_STATUSES and not error.is_json)


def may_need_new_token(error: ErrorBody) -> bool:
    """Return whether a new token may cure a 401. It may for an unknown code: only known codes rule it out."""
    known = _known(error.code)
    return known is None or known in _NEW_TOKEN_CODES


def remedy(error: ErrorBody, status: int) -> str:
    """Return the remedy for an error of the platform, for the flow's owner: by its code, else by its status."""
    if (known := _known(error.code)) is not None:
        return REMEDIES[known]
    return _REMEDIES_BY_STATUS.get(status) or f"The flow's endpoint answered {status} instead of the flow."


def _known(code: str | None) -> PlatformCode | None:
    return _KNOWN_CODES.get(code or "")


def _text(value: JsonValue) -> str | None:
    """Return a text that can be encoded, with secrets masked: it reaches logs, results, continuations, dead letters.

    JSON can express a lone surrogate, UTF-8 cannot.
    """
    if not isinstance(value, str) or not value:
        return None
    # Masked before anything shortens it: a cut can leave of a secret what no expression recognizes.
    return masked(value[:_MAX_TEXT_CHARACTERS]).encode("utf-8", "replace").decode()
