"""The platform's own answers by name: what Power Automate says when it turns a call away, or when a run gives nothing.

Statuses, codes and messages are those that callers of the direct endpoint report. Nobody reports a body for 404, 408,
429, 504, `OAuthAccessPolicyNotFound` and `AuthorizationFailed`; their messages only look the part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BehaviourName = Literal[
    "TriggerInputSchemaMismatch",
    "WorkflowTriggerIsNotEnabled",
    "DirectApiAuthorizationRequired",
    "DirectApiInvalidAuthorizationScheme",
    "DirectApiSasDisabled",
    "DirectApiRequestHasMoreThanOneAuthorization",
    "DirectApiInvalidAuthorizationSignature",
    "OAuthAccessPolicyNotFound",
    "MisMatchingOAuthClaims",
    "MisMatchingOAuthClaims401",
    "AuthorizationFailed",
    "WorkflowNotFound",
    "WorkflowRunNotFound",
    "MethodNotAllowed",
    "TooManyRequests",
    "RequestTimeout",
    "NoResponse",
    "GatewayTimeout",
]
"""The platform's error codes. Where one code comes in two forms, the second form's name says how it differs."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """An answer that the flow itself did not write."""

    status: int
    code: str
    message: str
    """May name `{workflow}`, `{run}`, `{state}` and `{detail}`."""
    ran: bool = False
    """Whether there was a run, which the answer's headers then name."""
    usual: Mapping[str, str] = field(default_factory=dict)
    """What the message says where nothing else is known."""

    def said(self, **details: str) -> str:
        """The message with its details filled in."""
        return self.message.format_map({"workflow": "unknown", "run": "unknown"} | dict(self.usual) | details)


_CLAIMS = "One or more claims either missing or does not match with the open authentication access control policy."

BEHAVIOURS: Mapping[BehaviourName, Behaviour] = {
    "TriggerInputSchemaMismatch": Behaviour(
        400,
        "TriggerInputSchemaMismatch",
        "The input body for trigger 'manual' of type 'Request' did not match its schema definition. "
        "Error details: '{detail}'.",
        usual={"detail": "Invalid type. Expected Object but got String."},
    ),
    "WorkflowTriggerIsNotEnabled": Behaviour(
        400,
        "WorkflowTriggerIsNotEnabled",
        "Could not execute workflow '{workflow}' trigger 'manual' with state '{state}': trigger is not enabled.",
        usual={"state": "Suspended"},
    ),
    "DirectApiAuthorizationRequired": Behaviour(
        401, "DirectApiAuthorizationRequired", "The OAuth authorization scheme is required."
    ),
    "DirectApiInvalidAuthorizationScheme": Behaviour(
        401,
        "DirectApiInvalidAuthorizationScheme",
        "The provided authorization token is not valid. The request should have a valid authorization header with "
        "'Bearer' scheme.",
    ),
    "DirectApiSasDisabled": Behaviour(
        401,
        "DirectApiInvalidAuthorizationScheme",
        "The request has SAS authentication scheme while it is disabled under your access control policy.",
    ),
    "DirectApiRequestHasMoreThanOneAuthorization": Behaviour(
        401,
        "DirectApiRequestHasMoreThanOneAuthorization",
        "The request has both SAS authorization scheme and OAuth authorization scheme. Only one scheme should be used.",
    ),
    "DirectApiInvalidAuthorizationSignature": Behaviour(
        401, "DirectApiInvalidAuthorizationSignature", "The provided authorization signature is not valid."
    ),
    "OAuthAccessPolicyNotFound": Behaviour(
        401, "OAuthAccessPolicyNotFound", "The request must be authenticated only by Shared Access scheme."
    ),
    "MisMatchingOAuthClaims": Behaviour(403, "MisMatchingOAuthClaims", _CLAIMS),
    "MisMatchingOAuthClaims401": Behaviour(401, "MisMatchingOAuthClaims", _CLAIMS),
    "AuthorizationFailed": Behaviour(
        403,
        "AuthorizationFailed",
        "The client IP address is not in the allowed caller IP address ranges specified in the workflow access "
        "control configuration.",
    ),
    "WorkflowNotFound": Behaviour(404, "WorkflowNotFound", "The workflow '{workflow}' could not be found."),
    "WorkflowRunNotFound": Behaviour(
        404, "WorkflowRunNotFound", "The workflow '{workflow}' run '{run}' could not be found."
    ),
    "MethodNotAllowed": Behaviour(
        405, "MethodNotAllowed", "The trigger takes {detail} requests only.", usual={"detail": "POST"}
    ),
    "TooManyRequests": Behaviour(429, "TooManyRequests", "The rate limit was exceeded. Try again later."),
    "RequestTimeout": Behaviour(408, "RequestTimeout", "The client timed out.", ran=True),
    "NoResponse": Behaviour(
        502, "NoResponse", "The server did not receive a response from an upstream server.", ran=True
    ),
    "GatewayTimeout": Behaviour(504, "GatewayTimeout", "504 GATEWAY TIMEOUT", ran=True),
}
