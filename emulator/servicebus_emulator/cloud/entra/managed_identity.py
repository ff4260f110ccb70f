"""The managed-identity endpoint, in the App Service protocol.

Source: Microsoft Learn, "How to use managed identities for App Service and Azure Functions", REST endpoint reference.
"""

from __future__ import annotations

import secrets
import time
import uuid

from aiohttp import web
from pydantic import Field

from servicebus_emulator.cloud.definitions import Definition, Fault, IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer
from servicebus_emulator.cloud.faults import Faults, inflict

API_VERSION = "2019-08-01"
_SELECTORS = ("client_id", "object_id", "principal_id", "mi_res_id", "resource_id")


class IdentityPatch(Definition):
    """What `PUT /emulator/identity` changes."""

    faults: tuple[Fault, ...] | None = None
    token_lifetime_seconds: int | None = Field(default=None, ge=1, le=7 * 86_400)


class IdentityEndpoint:
    """Gives the managed identity's tokens to whoever knows the header's secret."""

    def __init__(self, issuer: Issuer, definition: IdentityDefinition, header: str) -> None:
        """`header`: the secret to be known."""
        self._issuer = issuer
        self._identity = definition.managed_identity
        self._lifetime = definition.token_lifetime_seconds
        self.header = header
        self.faults = Faults()
        self.calls = 0

    def change(self, patch: IdentityPatch) -> None:
        """Apply what the patch names."""
        if patch.faults is not None:
            self.faults.put(patch.faults)
        if patch.token_lifetime_seconds is not None:
            self._lifetime = patch.token_lifetime_seconds

    async def token(self, request: web.Request) -> web.StreamResponse:
        """`GET ?api-version=2019-08-01&resource=…[&client_id=…]` with `X-IDENTITY-HEADER`."""
        self.calls += 1
        fault = self.faults.strike()
        answer = await inflict(request, fault, {}) if fault else None
        return self._answer(request) if answer is None else answer

    def _answer(self, request: web.Request) -> web.Response:
        given = request.headers.get("X-IDENTITY-HEADER", "").encode(errors="surrogateescape")
        if not secrets.compare_digest(given, self.header.encode()):
            return _refusal(401, "The X-IDENTITY-HEADER header is missing or is not this host's secret.")
        if request.query.get("api-version") != API_VERSION:
            return _refusal(400, f"The api-version must be {API_VERSION}.")
        resource = request.query.get("resource")
        if not resource:
            return _refusal(400, "The resource parameter is required.")
        if not self._is_ours(request):
            return _refusal(400, "No User Assigned or Delegated Managed Identity found for specified ClientId.")
        return web.json_response(self._grant(resource))

    def _is_ours(self, request: web.Request) -> bool:
        """Whether the identity asked for is the one there is. To name none is to ask for it."""
        known = {"client_id": self._identity.client_id} | dict.fromkeys(
            ("object_id", "principal_id"), self._identity.object_id
        )
        asked = {name: request.query[name] for name in _SELECTORS if name in request.query}
        return all(name in known and value.lower() == str(known[name]) for name, value in asked.items())

    def _grant(self, resource: str) -> dict[str, str]:
        """The token and all the fields that one or the other form of azure-identity reads.

        The asynchronous one needs `resource`, exactly as asked (it is its cache key); the synchronous one `expires_in`.
        """
        now = int(time.time())
        return {
            "access_token": self._issuer.for_managed_identity(resource, self._lifetime),
            "client_id": str(self._identity.client_id),
            "expires_in": str(self._lifetime),
            "expires_on": str(now + self._lifetime),
            "not_before": str(now),
            "resource": resource,
            "token_type": "Bearer",
        }


def _refusal(status: int, message: str) -> web.Response:
    body = {"statusCode": status, "message": message, "correlationId": str(uuid.uuid4())}
    return web.json_response(body, status=status)
