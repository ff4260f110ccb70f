"""What Power Automate checks before a run: the bearer, the flow's state, the input; and how it refuses.

The rules for audience, tenant and object ID are Microsoft Learn's, "Add OAuth authentication for HTTP request
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

from servicebus_emulator.cloud.definitions import FlowDefinition, IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer
from servicebus_emulator.cloud.flows.flow_errors import BEHAVIOURS, BehaviourName
from servicebus_emulator.servicebus.access.entra import InvalidToken

_log = logging.getLogger(__name__)
_TYPE_NAMES = {dict: "Object", list: "Array", str: "String", bool: "Boolean", int: "Integer", float: "Number"}


class Refusal(Exception):
    """The platform turns a call away; no run begins. `details` are what the behaviour's message names."""

    def __init__(self, name: BehaviourName, **details: str) -> None:
        behaviour = BEHAVIOURS[name]
        self.status = behaviour.status
        self.code = behaviour.code
        self.message = behaviour.said(**details)
        super().__init__(self.message)

    def response(self) -> web.Response:
        """The refusal as the platform writes it."""
        body = {"error": {"code": self.code, "message": self.message}}
        return web.json_response(body, status=self.status, headers=tracking_headers())


def tracking_headers() -> dict[str, str]:
    """The headers that every answer of the platform carries."""
    request_id = str(uuid.uuid4())
    return {
        "x-ms-correlation-id": str(uuid.uuid4()),
        "x-ms-request-id": f"localhost:{request_id}",
        "x-ms-tracking-id": request_id,
    }


class TriggerGuard:
    """Admits bearers of our own issuer's tokens, for the right audience, tenant and object ID."""

    def __init__(self, issuer: Issuer, identity: IdentityDefinition) -> None:
        self._issuer = issuer
        self._identity = identity

    def admit(self, request: web.Request, flow: FlowDefinition) -> None:
        """Raises `Refusal` unless the request's bearer may start the flow."""
        token = _bearer(request)
        try:
            claims = self._issuer.verify(token)
        except InvalidToken as error:
            _log.info("Flow %s turned a caller away: its token is not valid: %s", flow.name, error)
            raise Refusal("DirectApiInvalidAuthorizationScheme") from None
        wrong = {
            name: claims.get(name) for name, allowed in self._policy(flow).items() if claims.get(name) not in allowed
        }
        if wrong:
            # The platform does not tell which claim it was; on a laptop one may know.
            _log.info("Flow %s turned a caller away: these claims do not match its policy: %s", flow.name, wrong)
            raise Refusal("MisMatchingOAuthClaims")

    def _policy(self, flow: FlowDefinition) -> dict[str, list[str]]:
        """The values a claim may have."""
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
    """The request's one bearer token. Raises `Refusal`."""
    authorization = request.headers.get("Authorization")
    if "sig" in request.query:
        raise Refusal(
            "DirectApiSasDisabled" if authorization is None else "DirectApiRequestHasMoreThanOneAuthorization"
        )
    if authorization is None:
        raise Refusal("DirectApiAuthorizationRequired")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Refusal("DirectApiInvalidAuthorizationScheme")
    return token.strip()


def check_state(flow: FlowDefinition) -> None:
    """Raises `Refusal` unless the flow is on. A flow that is off or deleted is answered with 400, not 404."""
    if flow.state != "Enabled":
        raise Refusal("WorkflowTriggerIsNotEnabled", workflow=flow.name, state=flow.state)


def parse_input(body: bytes, content_type: str) -> JsonValue:
    """The trigger's input as a flow sees it: JSON if it says so and is so, otherwise a text; None without a body."""
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
    """A trigger's input schema, ready to check against. None admits anything."""

    def __init__(self, schema: dict[str, JsonValue] | None) -> None:
        self._validator: Validator | None = None
        if schema is not None:
            # An empty registry, because the default one fetches a $ref's URL.
            self._validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())

    def check(self, value: JsonValue) -> None:
        """Raises `Refusal` at the first mismatch."""
        if self._validator is None:
            return
        try:
            mismatch = next(self._validator.iter_errors(value), None)
        except (Unresolvable, RecursionError) as error:
            raise _mismatch(f"The schema cannot be applied: {error}") from error
        if mismatch is not None:
            raise _mismatch(_detail(mismatch))


def _mismatch(detail: str) -> Refusal:
    return Refusal("TriggerInputSchemaMismatch", detail=detail)


def _detail(mismatch: ValidationError) -> str:
    if mismatch.validator == "type" and isinstance(mismatch.validator_value, str):
        got = _TYPE_NAMES.get(type(mismatch.instance), "Null")
        return f"Invalid type. Expected {mismatch.validator_value.capitalize()} but got {got}."
    return f"{mismatch.message} (at {mismatch.json_path})"[:1000]
