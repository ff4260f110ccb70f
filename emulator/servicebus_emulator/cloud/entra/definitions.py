"""The definition of the tenant, its managed identity, and the audiences that the flows admit."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from servicebus_emulator.cloud.fields import Definition, HeaderText, Resource

FLOW_AUDIENCE = "https://service.flow.microsoft.com/"
"""The Flow service of the public cloud, trailing slash included (Microsoft Learn, "Add OAuth authentication")."""

TENANT_ID = UUID("6b1f3a52-0c6e-4f0d-9c7e-5d1e8a2b9f10")
MANAGED_IDENTITY_OBJECT_ID = UUID("b7a4e2d9-3f58-4c61-8e0b-2f9d6c1a7e33")
MANAGED_IDENTITY_CLIENT_ID = UUID("2e9c5b84-7d13-4a96-b5f2-81c0d3e6a4f7")


class ManagedIdentity(Definition):
    """The identity of the host that the emulator simulates."""

    object_id: UUID = MANAGED_IDENTITY_OBJECT_ID
    client_id: UUID = MANAGED_IDENTITY_CLIENT_ID


class IdentityDefinition(Definition):
    """The tenant, the managed identity, and the audiences of the worker and the flows."""

    tenant_id: UUID = TENANT_ID
    managed_identity: ManagedIdentity = Field(default_factory=ManagedIdentity)
    identity_header: HeaderText | None = Field(default=None, min_length=1)
    """The secret that guards the managed-identity endpoint; None generates a new one at each start."""
    token_lifetime_seconds: int = Field(default=86_400, ge=1, le=7 * 86_400)
    worker_audience: Resource = "api://flow-worker"
    flow_audiences: tuple[Resource, ...] = Field(default=(FLOW_AUDIENCE,), min_length=1)
    """The audiences that the flows admit; the comparison is exact, trailing slash included."""
