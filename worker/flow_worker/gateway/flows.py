"""The flows that a caller may start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from flow_worker.access.principal import Principal
from flow_worker.flows.registry import Flow, Registry
from flow_worker.gateway.admission import GatewayAdmission
from flow_worker.gateway.documents import FlowDescription, FlowList
from flow_worker.gateway.problems import Problem
from flow_worker.settings import FlowSettings


class FlowCatalog:
    """Lists flows with their titles and the schemas of their inputs."""

    def __init__(self, flows: Mapping[str, FlowSettings], registry: Registry, admission: GatewayAdmission) -> None:
        self._settings = flows
        self._flows = tuple(registry)
        self._admission = admission

    async def of(self, principal: Principal) -> FlowList:
        """Return the flows that the caller may start, by its roles, and by its privileges as far as they are known."""
        answers = await asyncio.gather(*(self._admission.may_start(principal, flow) for flow in self._flows))
        return FlowList(
            flows=[
                self._described(flow, is_checked=answer is not None)
                for flow, answer in zip(self._flows, answers, strict=True)
                if answer is not False
            ]
        )

    async def find(self, principal: Principal, name: str) -> FlowDescription:
        """Return one of these flows. Raises `Problem` (404) for every other name."""
        found = [flow for flow in (await self.of(principal)).flows if flow.name == name]
        if not found:
            raise Problem("not_found", "The caller may start no flow of this name.")
        return found[0]

    def _described(self, flow: Flow, *, is_checked: bool) -> FlowDescription:
        settings = self._settings[flow.name]
        return FlowDescription(
            name=flow.name,
            title=settings.title or flow.name,
            description=settings.description,
            input_schema=settings.input_schema,
            privilege_checked=is_checked,
        )
