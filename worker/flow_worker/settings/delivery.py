"""The settings of the sinks beside the reply queue, and of the outbox that holds what they still have to get."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flow_worker.settings.groups import DataverseSettings, FlowSettings, JournalSettings, RequestQueue, Seconds, _Group
from flow_worker.settings.sinks import NotificationSinkFields, RowSinkFields, kind_faults, row_faults

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
RESERVED_NAMES = frozenset({"settle"})
"""The sinks that the worker itself adds."""


class DeliverySettings(RowSinkFields, NotificationSinkFields):
    """One sink: a place beside the reply queue that learns the state and the result of requests."""

    kind: Literal["dataverse_row", "in_app_notification"]
    url: str | None = Field(
        default=None, description="URL of the Dataverse organization; default: that of the request queue"
    )
    max_concurrent: Annotated[int, Field(ge=1, le=52)] = 4
    attempt_seconds: Seconds = 30.0
    base_seconds: Annotated[float, Field(ge=0.01, le=3600)] = 2.0
    max_pause_seconds: Annotated[float, Field(ge=0.01, le=86_400)] = 300.0
    max_age_seconds: Annotated[float, Field(ge=0, le=90 * 86_400)] = 3 * 86_400.0

    @model_validator(mode="after")
    def _require_settings_of_the_kind(self) -> Self:
        fault = kind_faults(self.kind, self.model_fields_set) or row_faults(self)
        if fault is not None:
            raise ValueError(fault)
        return self


class OutboxSettings(_Group):
    """The outbox: the deliveries that the sinks still have to get. It is beside the journal, in the same store."""

    interval_seconds: Annotated[float, Field(ge=0.1, le=300)] = 5.0
    check_seconds: Annotated[float, Field(ge=1, le=86_400)] = 900.0
    table_name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{2,62}$")] | None = Field(
        default=None, description="journal.backend table: the table; default: journal.table_name + deliveries"
    )


def sinks_of(queue: RequestQueue | None, flow: FlowSettings | None) -> tuple[str, ...]:
    """Return the names of the sinks for the requests of a queue to a flow: the flow's list replaces the queue's."""
    if flow is not None and flow.deliver_to is not None:
        return flow.deliver_to
    return () if queue is None else queue.deliver_to


def delivery_faults(
    sinks: Mapping[str, DeliverySettings],
    queues: Sequence[RequestQueue],
    flows: Mapping[str, FlowSettings],
    journal: JournalSettings,
    dataverse: DataverseSettings,
) -> Iterator[str]:
    """Yield what is wrong with the sinks and with the lists that name them."""
    for name, sink in sinks.items():
        if _NAME.fullmatch(name) is None or name in RESERVED_NAMES:
            yield (
                f"delivery: the name '{name[:40]}' is not allowed; use up to 32 of a-z, 0-9, '_' and '-', a letter "
                f"first, and none of: {', '.join(sorted(RESERVED_NAMES))}"
            )
        if sink.max_age_seconds > journal.retention_seconds:
            yield (
                f"delivery.{name}.max_age_seconds: {sink.max_age_seconds:g} is more than journal.retention_seconds "
                f"({journal.retention_seconds}), after which the journal has forgotten the result; lower it, or raise "
                "journal.retention_seconds"
            )
        target = None if sink.opens is None else sinks.get(sink.opens)
        if sink.opens is not None and (target is None or target.kind != "dataverse_row"):
            yield (
                f"delivery.{name}.opens names '{sink.opens[:40]}', which is no sink of the kind 'dataverse_row'; name "
                "one, or remove it"
            )
    lists = [(f"request_queues: queue '{queue.name}': deliver_to", queue.deliver_to) for queue in queues]
    lists += [(f"flows.{name}.deliver_to", flow.deliver_to or ()) for name, flow in flows.items()]
    for setting, names in lists:
        for unknown in sorted(set(names) - sinks.keys()):
            known = f"not one of the sinks: {', '.join(sinks)}" if sinks else "and there is no sink"
            yield f"{setting} names '{unknown}', {known}; add [delivery.{unknown}], or remove the name"
        if len(set(names)) < len(names):
            yield f"{setting} names a sink twice; keep one of them"
    if dataverse.url is not None:
        return
    for queue in queues:
        named = {name for flow in (None, *flows.values()) for name in sinks_of(queue, flow)}
        for name in sorted(named & sinks.keys()):
            if sinks[name].url is None and queue.dataverse_url is None:
                yield (
                    f"delivery.{name}: queue '{queue.name}' delivers to it, and no Dataverse organization is set; set "
                    f"delivery.{name}.url or dataverse.url"
                )
