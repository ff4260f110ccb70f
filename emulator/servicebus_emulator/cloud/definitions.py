"""The definition of all HTTP services: the section `FlowWorker` of the configuration file."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field, field_validator

from servicebus_emulator.cloud.dataverse.definitions import DataverseDefinition
from servicebus_emulator.cloud.entra.definitions import IdentityDefinition
from servicebus_emulator.cloud.fields import Definition, Name
from servicebus_emulator.cloud.flows.definitions import FlowDefinition
from servicebus_emulator.cloud.page_definition import PageDefinition
from servicebus_emulator.servicebus.access import AccessMode
from servicebus_emulator.servicebus.access.entra import DataRole


class RoleAssignmentDefinition(Definition):
    """The assignment of a Service Bus data role to an identity."""

    object_id: UUID
    role: DataRole
    queue: Name | None = None
    """The queue it is limited to; None: the whole namespace."""


class ServiceBusDefinition(Definition):
    """The access to Service Bus by Entra tokens. `UserConfig` holds the shared access policies."""

    access: AccessMode = AccessMode.CHECKED
    role_assignments: tuple[RoleAssignmentDefinition, ...] | None = None
    """None makes the managed identity the namespace's data owner."""


class HttpDefinition(Definition):
    """The section `FlowWorker` of the configuration file."""

    identity: IdentityDefinition = Field(default_factory=IdentityDefinition)
    dataverse: DataverseDefinition = Field(default_factory=DataverseDefinition)
    service_bus: ServiceBusDefinition = Field(default_factory=ServiceBusDefinition)
    page: PageDefinition = Field(default_factory=PageDefinition)
    flows: tuple[FlowDefinition, ...] = ()

    @field_validator("flows")
    @classmethod
    def _names_differ(cls, flows: tuple[FlowDefinition, ...]) -> tuple[FlowDefinition, ...]:
        names = [flow.name for flow in flows]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"there are two flows named '{duplicates[0]}'")
        return flows
