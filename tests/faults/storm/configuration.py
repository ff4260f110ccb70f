"""The queues of the storm's broker, and the settings of its workers. All waits are short, so that faults meet often."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flow_worker.demo.environment import ROLE, EmulatorClient

MAIN, SIDE, CONTINUATIONS, REPLIES = "flow-requests", "side-requests", "flow-continuations", "flow-replies"
"""The side queue has no duplicate detection, few deliveries, and is deleted and made again during the storm."""
PRIVILEGE = "prvCreatenew_quote"
FLOW_TIMEOUT_SECONDS = 3.0
HASTY_SECONDS = 8.0
"""The age at which the worker gives up a request to the flow `hasty`: a lost call comes back later than that."""
LOCK_SECONDS = 10
GRACE_SECONDS = 5.0
STOP_SECONDS = 25.0
"""A stop must end within this, also while the network is frozen."""
JOURNAL_DEADLINE_SECONDS = 3.0
SEAL_KEY = "the key of the workers of the storm"
MAX_LOG_BYTES = 2 * 1024 * 1024
"""The journal's disk is small, and has to hold the log and a reserve of the same size beside the journal itself."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a worker has to know of its surroundings."""

    broker_port: int
    """The proxy in front of the broker."""
    health_port: int
    cloud: EmulatorClient
    flows_url: str
    journal: Mapping[str, Any]


def broker_configuration(window_seconds: int, lock_seconds: int) -> str:
    """Return the broker's `config.json`. `window_seconds` is the duplicate detection of the reply queue."""
    requests = {"LockDuration": f"PT{lock_seconds}S", "MaxDeliveryCount": 10, "DeadLetteringOnMessageExpiration": True}
    detection = {"RequiresDuplicateDetection": True, "DuplicateDetectionHistoryTimeWindow": "PT2H"}
    queues = {
        MAIN: requests | detection,
        SIDE: requests | {"MaxDeliveryCount": 4},
        CONTINUATIONS: {"LockDuration": f"PT{lock_seconds}S", "MaxDeliveryCount": 10} | detection,
        REPLIES: {
            "RequiresSession": True,
            "RequiresDuplicateDetection": True,
            "DuplicateDetectionHistoryTimeWindow": f"PT{window_seconds}S",
            "LockDuration": "PT30S",
        },
    }
    entries = [{"Name": name, "Properties": properties} for name, properties in queues.items()]
    return json.dumps({"UserConfig": {"Namespaces": [{"Name": "storm", "Queues": entries}]}})


def worker_settings(addresses: Addresses) -> dict[str, Any]:
    """Return a worker's settings in the form of its TOML file."""
    cloud, flows_host = addresses.cloud, urlsplit(addresses.flows_url).netloc
    tenant = cloud.issuer.split("/")[3]

    def flow(name: str, **changes: Any) -> dict[str, Any]:
        url = f"{addresses.flows_url}/flows/{name}"
        return {"url": url, "role": ROLE, "timeout_seconds": FLOW_TIMEOUT_SECONDS} | changes

    retry = {"base_seconds": 0.2, "max_pause_seconds": 2, "poll_seconds": 0.3, "max_poll_failures": 200}
    return {
        "plain_http_hosts": [urlsplit(cloud.web_url).netloc, flows_host],
        "shutdown_grace_seconds": GRACE_SECONDS,
        "servicebus": {
            "connection_string": connection_string(addresses.broker_port),
            "receive_wait_seconds": 0.5,
            "send_seconds": 4,
            "settle_seconds": 4,
            "renew_seconds": 3,
            "open_seconds": 5,
            "probe_interval_seconds": 3,
            "reconnect_max_seconds": 1,
        },
        "request_queues": [{"name": MAIN, "lanes": 4}, {"name": SIDE, "lanes": 2}],
        "continuations": {"queue": CONTINUATIONS, "lanes": 3, "sole_sender": "trusted", "seal_key": SEAL_KEY},
        "journal": {
            "deadline_seconds": JOURNAL_DEADLINE_SECONDS,
            "lease_margin_seconds": 2,
            "overdue_seconds": 15,
            **addresses.journal,
        },
        "replies": {"queues": [REPLIES], "time_to_live_seconds": 14_400},
        "dead_letters": {"interval_seconds": 1},
        "claims": {
            "authority": cloud.web_url,
            "tenants": [tenant],
            "audiences": [cloud.audience],
            "unknown_key_cooldown_seconds": 2,
            "fetch_seconds": 3,
        },
        "identity": {"token_seconds": 4},
        "dataverse": {"url": cloud.dataverse_url, "privilege_cache_seconds": 0, "request_seconds": 3},
        "retry": retry,
        "limits": {"breaker_seconds": 1, "breaker_max_seconds": 3},
        "http": {"connect_seconds": 3, "status_seconds": 3},
        "health": {"port": addresses.health_port},
        "flows": {
            "once": flow("once"),
            "repeat": flow("repeat", idempotent=True),
            "hasty": flow("hasty", retry=retry | {"max_age_seconds": HASTY_SECONDS}),
            "private": flow("private", privilege=PRIVILEGE),
        },
    }


def connection_string(port: int) -> str:
    """Return the connection string for a broker, or for the proxy in front of it."""
    return (
        f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=RootManageSharedAccessKey;"
        "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
    )


def as_toml(document: Mapping[str, Any]) -> str:
    """Return the document as TOML: every value on one line, tables inline."""
    return "\n".join(f"{name} = {_value(value)}" for name, value in document.items()) + "\n"


def _value(value: Any) -> str:
    match value:
        case Mapping():
            return "{" + ", ".join(f"{json.dumps(name)} = {_value(item)}" for name, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case _:
            return json.dumps(value)  # texts, numbers and truth values have the same form in TOML
