"""The checks of Power Automate before a run: the bearer, the flow's state and the input; and its refusals.

Source of the rules for audience, tenant and object ID: Microsoft Learn, "Add OAuth authentication for HTTP request
triggers".
"""

from __future__ import annotations

import json
import logging
import uuid

from aiohttp import web
from jsonschema.exceptions import ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import JsonValue
from referencing import Registry
from referencing.exceptions import Unresolvable

from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer
from servicebus_emulator.cloud.flow_errors import PLATFORM_ANSWERS, PlatformAnswerName
from servicebus_emulator.cloud.flows.definitions import FlowDefinition
from servicebus_emulator.servicebus.access.entra import InvalidToken

_log = logging.getLogger(__name__)
_TYPE_NAMES = {dict: "Object", list: "Array", str: "String", bool: "Boolean", int: "Integer", float: "Number"}


class TriggerRefusal(Exception):
    """The platform refuses a call, and no run begins. `details` fill the placeholders of the answer's message."""

    def __init__(self, name: PlatformAnswerName, **details: str) -> None:
        answer = PLATFORM_ANSWERS[name]
        self.status = answer.status
        self.code = answer.code
        self.message = answer.format_message(**details)
        super().__init__(self.message)

    def response(self) -> web.Response:
        """Return the refusal as the platform writes it."""
        body = {"error": {"code": self.code, "message": self.message}}
        return web.json_response(body, status=self.status, headers=tracking_headers())


def tracking_headers() -> dict[str, str]:
    """Return the headers that every answer of the platform has."""
    request_id = str(uuid.uuid4())
    return {
        "x-ms-correlation-id": str(uuid.uuid4()),
        "x-ms-request-id": f"localhost:{request_id}",
        "x-ms-tracking-id": request_id,
    }


class TriggerGuard:
    """Admits tokens of the emulator's own issuer for the right audience, tenant and object ID."""

    def __init__(self, issuer: Issuer, identity: IdentityDefinition) -> None:
        self._issuer = issuer
        self._identity = identity

    def admit(self, request: web.Request, flow: FlowDefinition) -> None:
        """Raise `TriggerRefusal` unless the request's bearer may start the flow."""
        token = _bearer(request)
        try:
            claims = self._issuer.verify(token)
        except InvalidToken as error:
            _log.info("Flow %s refuses a caller: its token is not valid: %s", flow.name, error)
            raise TriggerRefusal("DirectApiInvalidAuthorizationScheme") from None
        mismatches = {
            name: claims.get(name) for name, allowed in self._policy(flow).items() if claims.get(name) not in allowed
        }
        if mismatches:
            # The platform's answer does not name the claim. On a developer's machine the log may.
            _log.info("Flow %s refuses a caller: these claims do not match its policy: %s", flow.name, mismatches)
            raise TriggerRefusal("MisMatchingOAuthClaims")

    def _policy(self, flow: FlowDefinition) -> dict[str, list[str]]:
        """Return the allowed values of each token claim."""
        tenant = str(self._identity.tenant_id)
        policy = {
            "aud": list(self._identity.flow_audiences),
            "iss": [self._issuer.v1(tenant), self._issuer.v2(tenant)],
            "tid": [tenant],
        }
        allowed = flow.allowed_object_ids
        if allowed is None:
            allowed = (self._identity.managed_identity.object_id,)
        return policy | ({"oid": [str(object_id) for object_id in allowed]} if allowed else {})


def _bearer(request: web.Request) -> str:
    """Return the request's bearer token. Raise `TriggerRefusal` if it has none, or another authorization as well."""
    authorization = request.headers.get("Authorization")
    if "sig" in request.query:
        raise TriggerRefusal(
            "DirectApiSasDisabled" if authorization is None else "DirectApiRequestHasMoreThanOneAuthorization"
        )
    if authorization is None:
        raise TriggerRefusal("DirectApiAuthorizationRequired")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise TriggerRefusal("DirectApiInvalidAuthorizationScheme")
    return token.strip()


def check_state(flow: FlowDefinition) -> None:
    """Raise `TriggerRefusal` unless the flow is on. The platform answers 400 also for a deleted flow, not 404."""
    if flow.state != "Enabled":
        raise TriggerRefusal("WorkflowTriggerIsNotEnabled", workflow=flow.name, state=flow.state)


def parse_input(body: bytes, content_type: str) -> JsonValue:
    """Return the trigger's input as a flow receives it: the JSON value, else a string; None for an empty body."""
    if not body:
        return None
    text = body.decode(errors="replace")
    if content_type == "application/json" or content_type.endswith("+json"):
        try:
            value: JsonValue = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return value
    return text


class InputSchema:
    """A trigger's compiled input schema; None admits any input."""

    def __init__(self, schema: dict[str, JsonValue] | None) -> None:
        self._validator: Validator | None = None
        if schema is not None:
            # The default registry would fetch the URL of a $ref, so this one is empty.
            self._validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())

    def check(self, value: JsonValue) -> None:
        """Raise `TriggerRefusal` at the first mismatch."""
        if self._validator is None:
            return
        try:
            mismatch = next(self._validator.iter_errors(value), None)
        except (Unresolvable, RecursionError) as error:
            raise _mismatch(f"The schema cannot be applied: {error}") from error
        if mismatch is not None:
            raise _mismatch(_detail(mismatch))


def _mismatch(detail: str) -> TriggerRefusal:
    return TriggerRefusal("TriggerInputSchemaMismatch", detail=detail)


def _detail(mismatch: ValidationError) -> str:
    if mismatch.validator == "type" and isinstance(mismatch.validator_value, str):
        actual = _TYPE_NAMES.get(type(mismatch.instance), "Null")
        return f"Invalid type. Expected {mismatch.validator_value.capitalize()} but got {actual}."
    return f"{mismatch.message} (at {mismatch.json_path})"[:1000]
