"""The first lines of `flow-worker run`: what this worker is and does, at a glance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flow_worker.cli.terminal import visible
from flow_worker.version import worker_version

if TYPE_CHECKING:
    from flow_worker.settings import HealthSettings, Settings

_MAX_CHARACTERS = 50
"""The characters of the names in one row, so that a row fits in 80 columns with its label and the count of the rest."""


def banner(settings: Settings) -> str:
    """Return the banner, for a log in text."""
    requests = _names(f"{queue.name} ({queue.lanes} lanes)" for queue in settings.request_queues)
    rows = {
        "broker": settings.servicebus.address,
        "requests": requests,
        "continuations": f"{settings.continuations.queue} ({settings.continuations.lanes} lanes)",
        "results": _names(dict.fromkeys([*settings.replies.queues, *settings.gateway_reply_queues.values()])),
        "flows": _names(settings.flows),
        "health": health_url(settings) or "off (health.port = 0)",
    }
    lines = [f"flow-worker {worker_version()} starts. `flow-worker check` prints all settings."]
    lines += [f"  {name:<14} {visible(value)}" for name, value in rows.items()]
    return "\n".join(lines)


def summary(settings: Settings) -> dict[str, str | int]:
    """Return the same as fields, for a log in JSON."""
    return {
        "version": worker_version(),
        "broker": settings.servicebus.address,
        "queues": ", ".join(queue.name for queue in settings.request_queues),
        "flows": ", ".join(settings.flows),
        "health": health_url(settings),
    }


def health_url(settings: Settings) -> str:
    """Return the URL of the readiness probe for a caller on this machine; empty if there is none."""
    base = health_base_url(settings.health)
    return f"{base}/health/ready" if base else ""


def health_base_url(endpoint: HealthSettings) -> str:
    """Return the URL of the health endpoint for a caller on this machine; empty if there is none."""
    if endpoint.port == 0:
        return ""
    return endpoint.url


def _names(names: Iterable[str]) -> str:
    every = list(names)
    shown = every[:1]
    while len(shown) < len(every) and len(", ".join(every[: len(shown) + 1])) <= _MAX_CHARACTERS:
        shown.append(every[len(shown)])
    more = f" and {len(every) - len(shown)} more" if len(every) > len(shown) else ""
    return ", ".join(shown) + more if every else "none"
