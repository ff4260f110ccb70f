"""Asks the gateway of the settings for its readiness, for `flow-worker status`."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from pydantic import JsonValue

from flow_worker.settings import GatewaySettings

_SECONDS = 3.0


def gateway_report(settings: GatewaySettings) -> dict[str, JsonValue]:
    """Return `url`, `ready` and `fault`, which is None if the gateway is ready."""
    url = settings.health.url
    try:
        response = httpx.get(f"{url}/health/ready", timeout=_SECONDS, trust_env=False)
        document = response.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return {"url": url, "ready": False, "fault": f"no gateway answers ({type(error).__name__})"}
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or "store" not in document:
        return {"url": url, "ready": False, "fault": "the answer is not that of a gateway; see gateway.health_port"}
    fault = None if document.get("ready") is True else "; ".join(_faults(document)) or "it starts or stops"
    return {"url": url, "ready": fault is None, "fault": fault}


def _faults(document: Mapping[str, JsonValue]) -> list[str]:
    store, queues = document.get("store"), document.get("queues")
    found = []
    if isinstance(store, dict) and store.get("last_error"):
        found.append(f"store: {store['last_error']}")
    for name, queue in queues.items() if isinstance(queues, dict) else ():
        if isinstance(queue, dict) and not queue.get("connected"):
            found.append(f"{name}: {queue.get('last_error') or 'not connected'}")
    return found
