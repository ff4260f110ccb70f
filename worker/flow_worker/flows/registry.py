"""Finds the registered flows by name. A flow's URL never comes from a message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from jsonschema.protocols import Validator
from pydantic import JsonValue

from flow_worker.errors import Refused
from flow_worker.flows.input_schema import compile_schema, fault_of
from flow_worker.flows.privilege import Depth
from flow_worker.flows.status_url import NOWHERE, StatusHosts
from flow_worker.settings import FlowSettings, RetrySettings
from flow_worker.settings.json_schema import weigh


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow. `url` is a secret: together with a token it starts the flow."""

    name: str
    url: str = field(repr=False)
    role: str | None
    """The app role that the sender's token must hold."""
    timeout_seconds: float
    idempotent: bool
    privilege: str | None = None
    """The privilege that the user must hold in Dataverse, at `privilege_depth` or deeper."""
    privilege_depth: Depth = Depth.BASIC
    bind_claim: bool = False
    input_validator: Validator | None = field(default=None, repr=False)
    schema_weight: int = 1
    """The number of parts of the schema that may apply to one value of the input; see `json_schema.weigh`."""
    retry: RetrySettings | None = None
    """The flow's own retry settings; None: the worker's settings apply."""
    status_hosts: StatusHosts = NOWHERE

    def input_fault(self, value: JsonValue) -> str | None:
        """Return the first fault of an input; None if it is valid. Only `InputChecks` knows if this is cheap."""
        return None if self.input_validator is None else fault_of(self.input_validator, value)


class Registry:
    """The registered flows."""

    def __init__(self, flows: Mapping[str, FlowSettings], status_hosts: StatusHosts = NOWHERE) -> None:
        self._flows = {name: _flow(name, settings, status_hosts) for name, settings in flows.items()}

    def __iter__(self) -> Iterator[Flow]:
        return iter(self._flows.values())

    def find(self, name: str) -> Flow:
        """Return the flow of this name. Raises `Refused` if it is not registered."""
        try:
            return self._flows[name]
        except KeyError:
            raise Refused(
                "unknown_flow", "No flow of this name is registered here; check the name.", is_hidden=True
            ) from None

    def binds_claim(self, name: str) -> bool:
        """Return whether there is such a flow and it accepts bound claims only."""
        flow = self._flows.get(name)
        return flow is not None and flow.bind_claim


def _flow(name: str, settings: FlowSettings, status_hosts: StatusHosts) -> Flow:
    schema = settings.input_schema
    return Flow(
        name=name,
        url=settings.url.get_secret_value(),
        role=settings.role,
        privilege=settings.privilege,
        privilege_depth=Depth[settings.privilege_depth.upper()],
        bind_claim=settings.bind_claim,
        timeout_seconds=settings.timeout_seconds,
        idempotent=settings.idempotent,
        input_validator=None if schema is None else compile_schema(schema),
        schema_weight=1 if schema is None else weigh(schema),
        retry=settings.retry,
        status_hosts=status_hosts,
    )
