"""Checks the URL of each flow. No flow is called."""

from __future__ import annotations

from functools import partial

from flow_worker.doctor.finding import Check, Result, failed, ok
from flow_worker.doctor.hosts import of_url
from flow_worker.settings import FlowSettings, Settings


def checks(settings: Settings) -> list[Check]:
    """Return one check for each flow."""
    return [Check("flow", name, partial(_check, flow)) for name, flow in settings.flows.items()]


async def _check(flow: FlowSettings) -> Result:
    host = of_url(flow.url.get_secret_value()).name
    if flow.has_legacy_url:
        return failed(
            f"{host} is a legacy address, which ended on 30 November 2025",
            "Copy the flow's new URL from its trigger; its host ends in environment.api.powerplatform.com.",
        )
    return ok(f"{host}; the flow was not called")
