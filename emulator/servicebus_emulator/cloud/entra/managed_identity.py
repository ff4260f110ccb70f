"""The managed-identity endpoint, in the App Service protocol.

Source: Microsoft Learn, "How to use managed identities for App Service and Azure Functions", REST endpoint reference.
"""

from __future__ import annotations

import secrets
import time
import uuid

from aiohttp import web
from pydantic import Field

from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.cloud.entra.issuer import Issuer
from servicebus_emulator.cloud.faults.definitions import Fault
from servicebus_emulator.cloud.faults.injection import inject
from servicebus_emulator.cloud.faults.schedule import FaultSchedule
from servicebus_emulator.cloud.fields import Definition

API_VERSION = "2019-08-01"
_SELECTORS = ("client_id", "object_id", "principal_id", "mi_res_id", "resource_id")


class IdentityPatch(Definition):
    """The body of `PUT /emulator/identity`: the faults and the token lifetime to set."""

    faults: tuple[Fault, ...] | None = None
    token_lifetime_seconds: int | None = Field(default=None, ge=1, le=7 * 86_400)


class IdentityEndpoint:
    """Issues the managed identity's tokens to callers that send the secret header."""

    def __init__(self, issuer: Issuer, definition: IdentityDefinition, header: str) -> None:
        """`header` is the secret value of `X-IDENTITY-HEADER`."""
        self._issuer = issuer
        self._identity = definition.managed_identity
        self._lifetime = definition.token_lifetime_seconds
        self.header = header
        self.faults: FaultSchedule[Fault] = FaultSchedule()
        self.calls = 0

    def apply(self, patch: IdentityPatch) -> None:
        """Set the fields that the patch contains."""
        if patch.faults is not None:
            self.faults.replace(patch.faults)
        if patch.token_lifetime_seconds is not None:
            self._lifetime = patch.token_lifetime_seconds

    async def token(self, request: web.Request) -> web.StreamResponse:
        """Answer `GET ?api-version=2019-08-01&resource=…[&client_id=…]` with the header `X-IDENTITY-HEADER`."""
        self.calls += 1
        fault = self.faults.next_fault()
        response = await inject(request, fault, {}) if fault else None
        return self._answer(request) if response is None else response

    def _answer(self, request: web.Request) -> web.Response:
        header = request.headers.get("X-IDENTITY-HEADER", "").encode(errors="surrogateescape")
        if not secrets.compare_digest(header, self.header.encode()):
            return _refusal(401, "The X-IDENTITY-HEADER header is missing or is not this host's secret.")
        if request.query.get("api-version") != API_VERSION:
            return _refusal(400, f"The api-version must be {API_VERSION}.")
        resource = request.query.get("resource")
        if not resource:
            return _refusal(400, "The resource parameter is required.")
        if not self._selects_our_identity(request):
            return _refusal(400, "No User Assigned or Delegated Managed Identity found for specified ClientId.")
        return web.json_response(self._grant(resource))

    def _selects_our_identity(self, request: web.Request) -> bool:
        """Return whether the request selects the only managed identity; a request without selector does too."""
        known = {"client_id": self._identity.client_id} | dict.fromkeys(
            ("object_id", "principal_id"), self._identity.object_id
        )
        selectors = {name: request.query[name] for name in _SELECTORS if name in request.query}
        return all(name in known and value.lower() == str(known[name]) for name, value in selectors.items())

    def _grant(self, resource: str) -> dict[str, str]:
        """Return the token with every field that either form of azure-identity reads.

        The asynchronous form needs `resource` exactly as requested, since that is its cache key. The synchronous form
        needs `expires_in`.
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
