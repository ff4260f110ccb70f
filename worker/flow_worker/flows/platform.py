"""What Power Automate itself says instead of a flow: its error codes, and what is to be done about each.

The bodies are those that callers of the direct endpoint report. Where an answer's writer matters, `wrote` judges it:
the platform and a flow's own Response action may use the same status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from flow_worker.flows.invoker import Answer

TOKEN_TROUBLE = frozenset({"DirectApiAuthorizationRequired", "DirectApiInvalidAuthorizationScheme"})
"""Codes that a newer token may cure."""

REMEDIES: Mapping[str, str] = {
    "TriggerInputSchemaMismatch": (
        "The input does not fit the schema of the flow's trigger: send what the schema asks for, or correct the schema."
    ),
    "WorkflowTriggerIsNotEnabled": (
        "The flow is turned off, suspended or deleted: turn it on; if it was made anew, put its new URL into the "
        "worker's settings."
    ),
    "DirectApiAuthorizationRequired": (
        "The flow saw no token it takes: set its trigger to 'Specific users in my tenant' and copy its URL anew."
    ),
    "DirectApiInvalidAuthorizationScheme": (
        "The flow does not take the worker's token, nor one fetched anew: check that the trigger is set to 'Specific "
        "users in my tenant' and that the worker's cloud is the flow's."
    ),
    "DirectApiRequestHasMoreThanOneAuthorization": (
        "The flow's URL carries a signature beside the token: set its trigger to 'Specific users in my tenant' and "
        "copy its URL anew."
    ),
    "DirectApiInvalidAuthorizationSignature": (
        "The flow's URL carries a signature that is not valid: set its trigger to 'Specific users in my tenant' and "
        "copy its URL anew."
    ),
    "OAuthAccessPolicyNotFound": (
        "The flow's trigger takes signed URLs only: set it to 'Specific users in my tenant' and copy its URL anew."
    ),
    "MisMatchingOAuthClaims": (
        "The flow's access policy does not admit the worker's identity. Three suspects: the token's audience lacks its "
        "trailing slash (the scope needs two: '…//.default'); the trigger's list of allowed users holds an application "
        "ID instead of the identity's object ID; or the trigger admits no app-only tokens in its present mode."
    ),
    "AuthorizationFailed": (
        "The flow is restricted to certain callers' addresses: allow the worker's outbound addresses."
    ),
    "WorkflowNotFound": "There is no flow at its URL: copy the URL from the flow's trigger into the worker's settings.",
    "WorkflowRunNotFound": "The flow's run is not known any more: look for it in the flow's run history.",
    "MethodNotAllowed": "The flow's trigger does not take POST: set its method to POST.",
    "NoResponse": (
        "The flow's run gave no answer: an action before its Response failed, or it took longer than the 120 s that a "
        "call may last; for longer runs make the Response asynchronous."
    ),
}
"""What to do about a code, as a sentence for whoever looks after the flow."""

_BY_STATUS: Mapping[int, str] = {
    400: "The flow's endpoint could not make sense of the call.",
    401: "The flow does not take the worker's token, nor one fetched anew: check its trigger's access settings.",
    403: "The flow's endpoint forbids the call: check its trigger's access settings and its caller restrictions.",
    404: REMEDIES["WorkflowNotFound"],
    405: REMEDIES["MethodNotAllowed"],
    408: "The flow's answer did not come in time.",
    429: "The flow is called more often than it may be.",
    502: "The flow's answer did not come through.",
    503: "The flow's endpoint is not available just now.",
    504: "The flow's answer did not come in time.",
}

_GATEWAY_CODES = frozenset({"NoResponse", "GatewayTimeout", "RequestTimeout", "BadGateway", "ServiceUnavailable"})
"""Codes the platform uses although a run may have begun."""

_UNANSWERED = frozenset({408, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Said:
    """An error body, as far as it is one. `is_json` is false for HTML pages, plain text and nothing at all."""

    code: str | None
    message: str | None
    is_json: bool
    is_gateways: bool = False


def read(body: bytes) -> Said:
    """What an error body says: `{"error": {"code", "message"}}`, or a gateway's `{"statusCode", "message"}`."""
    try:
        document: JsonValue = json.loads(body)
    except (ValueError, RecursionError):
        return Said(None, None, is_json=False)
    if not isinstance(document, dict):
        return Said(None, None, is_json=True)
    error = document.get("error")
    if isinstance(error, dict):
        return Said(_text(error.get("code")), _text(error.get("message")), is_json=True)
    gateways = isinstance(document.get("statusCode"), int) and isinstance(document.get("message"), str)
    return Said(None, _text(document["message"]) if gateways else None, is_json=True, is_gateways=gateways)


def wrote(answer: Answer, said: Said) -> bool:
    """Whether the platform wrote this error, rather than the flow's own Response action.

    The platform names no run in what it writes before one began, so a run ID speaks for the flow; unless it is one of
    the answers that stand for a run which gave none. Without a run ID, JSON of another form than the platform's is
    taken for the flow's own, since nobody vouches that every endpoint names its runs.
    """
    if answer.run_id is not None:
        return said.code in _GATEWAY_CODES or (answer.status in _UNANSWERED and not said.is_json)
    return said.code is not None or said.is_gateways or not said.is_json


def is_no_answer(answer: Answer, said: Said) -> bool:
    """Whether an error of the platform's stands for a run that may have begun and gave no answer."""
    return said.code in _GATEWAY_CODES or answer.status == 408 or answer.status >= 500


def remedy(code: str | None, status: int) -> str:
    """What to do about an error of the platform's."""
    known = REMEDIES.get(code or "") or _BY_STATUS.get(status)
    return known or f"The flow's endpoint answered {status} instead of the flow."


def _text(value: JsonValue) -> str | None:
    """What travels as text: a lone surrogate, which JSON can express, does not."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None
