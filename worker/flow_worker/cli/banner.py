"""The first lines of `flow-worker run` and `gateway`: what this process is and does, at a glance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from flow_worker.cli.terminal import visible
from flow_worker.version import worker_version

if TYPE_CHECKING:
    from flow_worker.settings import HealthSettings, Settings, StatementSettings
    from flow_worker.settings.gateway_process import GatewayProcess

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
    return _table(f"flow-worker {worker_version()} starts. `flow-worker check` prints all settings.", rows)


def gateway_banner(settings: GatewayProcess) -> str:
    """Return the banner of a gateway, for a log in text."""
    options = settings.gateway
    store = options.store
    base = health_base_url(options.health)
    rows = {
        "url": options.public_url or (options.endpoint.url if options.port else f"{options.host}, a free port"),
        "pages": _names(options.allowed_origins) if options.allowed_origins else "none (gateway.allowed_origins)",
        "broker": settings.servicebus.address,
        "requests": options.request_queue,
        "results": options.reply_queue,
        "flows": _names(settings.flows),
        "store": str(store.path) if store.backend == "sqlite" else f"table {store.table_name}",
        "signing key": _place_of_key(settings.statements),
        "health": f"{base}/health/ready" if base else "off (gateway.health_port = 0)",
    }
    return _table(f"flow-worker gateway {worker_version()} starts.", rows)


def gateway_summary(settings: GatewayProcess) -> dict[str, str]:
    """Return the facts of a gateway as fields, for a log in JSON."""
    options = settings.gateway
    return {
        "version": worker_version(),
        "broker": settings.servicebus.address,
        "request_queue": options.request_queue,
        "reply_queue": options.reply_queue,
        "store": options.store.backend,
    }


def _place_of_key(statements: StatementSettings) -> str:
    """Return where the key is; the key itself is a secret."""
    if statements.signing_key is not None:
        return "statements.signing_key"
    return str(statements.signing_key_file or statements.key_path)


def _table(title: str, rows: Mapping[str, str]) -> str:
    return "\n".join([title, *(f"  {name:<14} {visible(value)}" for name, value in rows.items())])


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
