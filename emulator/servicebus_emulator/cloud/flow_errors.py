"""The answers that Power Automate itself writes: it rejects a call, or a run ends without a response.

Statuses, codes and messages are those that callers of the direct endpoint report. No published report shows the body
of 404, 408, 429, 504, `OAuthAccessPolicyNotFound` and `AuthorizationFailed`: their messages are plausible inventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PlatformAnswerName = Literal[
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
"""The platform's error codes. Where one code has two forms, the name of the second form says how it differs."""


@dataclass(frozen=True, slots=True)
class PlatformAnswer:
    """An answer that the flow itself did not write."""

    status: int
    code: str
    message: str
    """The message template; its placeholders are `{workflow}`, `{run}`, `{state}` and `{detail}`."""
    run_started: bool = False
    """A run began; the answer's headers name it."""
    default_details: Mapping[str, str] = field(default_factory=dict)
    """Values for the placeholders that the caller does not know."""

    def format_message(self, **details: str) -> str:
        """Return the message with its placeholders filled in."""
        known = {"workflow": "unknown", "run": "unknown"} | dict(self.default_details) | details
        return self.message.format_map(known)


_CLAIMS = "One or more claims either missing or does not match with the open authentication access control policy."

PLATFORM_ANSWERS: Mapping[PlatformAnswerName, PlatformAnswer] = {
    "TriggerInputSchemaMismatch": PlatformAnswer(
        400,
        "TriggerInputSchemaMismatch",
        "The input body for trigger 'manual' of type 'Request' did not match its schema definition. "
        "Error details: '{detail}'.",
        default_details={"detail": "Invalid type. Expected Object but got String."},
    ),
    "WorkflowTriggerIsNotEnabled": PlatformAnswer(
        400,
        "WorkflowTriggerIsNotEnabled",
        "Could not execute workflow '{workflow}' trigger 'manual' with state '{state}': trigger is not enabled.",
        default_details={"state": "Suspended"},
    ),
    "DirectApiAuthorizationRequired": PlatformAnswer(
        401, "DirectApiAuthorizationRequired", "The OAuth authorization scheme is required."
    ),
    "DirectApiInvalidAuthorizationScheme": PlatformAnswer(
        401,
        "DirectApiInvalidAuthorizationScheme",
        "The provided authorization token is not valid. The request should have a valid authorization header with "
        "'Bearer' scheme.",
    ),
    "DirectApiSasDisabled": PlatformAnswer(
        401,
        "DirectApiInvalidAuthorizationScheme",
        "The request has SAS authentication scheme while it is disabled under your access control policy.",
    ),
    "DirectApiRequestHasMoreThanOneAuthorization": PlatformAnswer(
        401,
        "DirectApiRequestHasMoreThanOneAuthorization",
        "The request has both SAS authorization scheme and OAuth authorization scheme. Only one scheme should be used.",
    ),
    "DirectApiInvalidAuthorizationSignature": PlatformAnswer(
        401, "DirectApiInvalidAuthorizationSignature", "The provided authorization signature is not valid."
    ),
    "OAuthAccessPolicyNotFound": PlatformAnswer(
        401, "OAuthAccessPolicyNotFound", "The request must be authenticated only by Shared Access scheme."
    ),
    "MisMatchingOAuthClaims": PlatformAnswer(403, "MisMatchingOAuthClaims", _CLAIMS),
    "MisMatchingOAuthClaims401": PlatformAnswer(401, "MisMatchingOAuthClaims", _CLAIMS),
    "AuthorizationFailed": PlatformAnswer(
        403,
        "AuthorizationFailed",
        "The client IP address is not in the allowed caller IP address ranges specified in the workflow access "
        "control configuration.",
    ),
    "WorkflowNotFound": PlatformAnswer(404, "WorkflowNotFound", "The workflow '{workflow}' could not be found."),
    "WorkflowRunNotFound": PlatformAnswer(
        404, "WorkflowRunNotFound", "The workflow '{workflow}' run '{run}' could not be found."
    ),
    "MethodNotAllowed": PlatformAnswer(
        405, "MethodNotAllowed", "The trigger takes {detail} requests only.", default_details={"detail": "POST"}
    ),
    "TooManyRequests": PlatformAnswer(429, "TooManyRequests", "The rate limit was exceeded. Try again later."),
    "RequestTimeout": PlatformAnswer(408, "RequestTimeout", "The client timed out.", run_started=True),
    "NoResponse": PlatformAnswer(
        502, "NoResponse", "The server did not receive a response from an upstream server.", run_started=True
    ),
    "GatewayTimeout": PlatformAnswer(504, "GatewayTimeout", "504 GATEWAY TIMEOUT", run_started=True),
}
