"""The settings of traces. The standard variables `OTEL_…` configure the exporters of metrics and traces."""

from __future__ import annotations

from typing import Literal

from flow_worker.settings.groups import _Group


class TelemetrySettings(_Group):
    """How traces of requests continue."""

    parent: Literal["message", "link"] = "message"
