"""The settings of the search for flow runs, by which the worker settles `unknown` results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flow_contracts.guid import Guid
from flow_worker.settings.groups import DataverseSettings, FlowSettings, JournalSettings, Seconds, _Group

_MAX_RUN_SECONDS = 28 * 86_400
"""Dataverse keeps the record of a run for 28 days by default (Microsoft Learn, "Cloud flow run metadata")."""


def _check_page_url(url: str) -> str:
    if not url.startswith("https://") or "{run}" not in url:
        raise ValueError("must begin with https:// and contain {run}; it may contain {flow}")
    return url


class _Recorded(Protocol):
    """A flow that may have a setting of its own."""

    @property
    def run_records(self) -> bool | None: ...


class RecordedFlow(BaseModel):
    """The part of a flow's settings that concerns its run records, for a command that needs no more."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    run_records: bool | None = None
    workflow_id: Guid | None = None


class RunRecordSettings(_Group):
    """The search in Dataverse's table of flow runs for the run of a request whose result is `unknown`."""

    enabled: bool = Field(default=False, description="for every flow without its own run_records")
    url: str | None = Field(default=None, description="URL of the organization of the flows; default: dataverse.url")
    grace_seconds: Annotated[float, Field(ge=0, le=86_400)] = 600.0
    pause_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 60.0
    max_pause_seconds: Annotated[float, Field(ge=1, le=86_400)] = 3600.0
    max_seconds: Annotated[float, Field(ge=1, le=_MAX_RUN_SECONDS)] = 86_400.0
    clock_skew_seconds: Annotated[float, Field(ge=0, le=3600)] = 300.0
    attempt_seconds: Seconds = 30.0
    max_concurrent: Annotated[int, Field(ge=1, le=52)] = 2
    page_url: Annotated[str, AfterValidator(_check_page_url)] | None = Field(
        default=None, description="https://make.powerautomate.com/environments/ENVIRONMENT/flows/{flow}/runs/{run}"
    )

    def flows(self, flows: Mapping[str, _Recorded]) -> frozenset[str]:
        """Return the names of the flows whose runs the worker looks for."""
        return frozenset(
            name for name, flow in flows.items() if (self.enabled if flow.run_records is None else flow.run_records)
        )

    def url_for(self, flows: Mapping[str, _Recorded], dataverse: DataverseSettings) -> str | None:
        """Return the URL of the organization with the records; None unless the worker looks for any."""
        return (self.url or dataverse.url) if self.flows(flows) else None

    def faults(
        self, flows: Mapping[str, FlowSettings], dataverse: DataverseSettings, journal: JournalSettings
    ) -> Iterator[str]:
        """Yield what is wrong with these settings beside the others."""
        if not self.flows(flows):
            return
        if self.url_for(flows, dataverse) is None:
            yield "run_records: the worker looks for runs in Dataverse; set run_records.url or dataverse.url"
        if self.max_seconds > journal.retention_seconds:
            yield (
                f"run_records.max_seconds: {self.max_seconds:g} is more than journal.retention_seconds "
                f"({journal.retention_seconds}), after which the journal has forgotten the result; lower it, or raise "
                "journal.retention_seconds"
            )
        if self.grace_seconds >= self.max_seconds:
            yield (
                f"run_records.grace_seconds: {self.grace_seconds:g} is not less than run_records.max_seconds "
                f"({self.max_seconds:g}); lower it"
            )
