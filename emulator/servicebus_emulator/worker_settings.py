"""Renders the settings of a flow-worker that fit a running emulator, as variables that override its TOML file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_FLOW_PATH = "triggers/manual/paths/invoke?api-version=1"
_TENANT_INDEX = 3
"""The position of the tenant in an issuer such as `http://127.0.0.1:5380/TENANT/v2.0`, split at the slashes."""
DEFAULT_ROLE = "Quotes.Create"
"""The role of the flows without a TOML file that says who may start them."""
UNSET = "null"
"""The value by which a variable unsets a setting of the TOML file."""


class Form(StrEnum):
    """ENV: `.env` and `sh`. POWERSHELL: assignments to environment variables."""

    ENV = "env"
    POWERSHELL = "powershell"


class UnusableFile(Exception):
    """The worker's TOML file cannot be read; the message names it."""


@dataclass(frozen=True, slots=True)
class WorkerFile:
    """What the emulator has to know of a worker's TOML file."""

    flows: tuple[str, ...]
    request_queues: tuple[Mapping[str, Any], ...]
    queues: tuple[str, ...]
    """The names of all queues that it mentions."""

    @classmethod
    def read(cls, path: Path) -> WorkerFile:
        """Read the file. Raise `UnusableFile`."""
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UnusableFile(f"{path} cannot be read: {error}") from None
        queues = tuple(queue for queue in _list(document.get("request_queues")) if isinstance(queue, dict))
        names = [str(queue[part]) for queue in queues for part in ("name", "reply_to") if part in queue]
        continuation = _table(document.get("continuations")).get("queue")
        gateway = _table(document.get("gateway"))
        replies = _list(_table(document.get("replies")).get("queues"))
        others = (continuation, *replies, gateway.get("request_queue"), gateway.get("reply_queue"))
        names += [str(name) for name in others if name is not None]
        return cls(tuple(_table(document.get("flows"))), queues, tuple(dict.fromkeys(names)))


def variables(ready: Mapping[str, Any], file: WorkerFile | None) -> dict[str, str]:
    """Return the variables of a worker, and those of azure-identity, for the announced emulator.

    With the worker's `file`, its flows and the Dataverse organizations of its queues move to the emulator.
    """
    issuer = str(ready["issuer"]).split("/")
    flows = file.flows if file is not None else tuple(ready["flows"])
    access = {} if file is not None else {"role": DEFAULT_ROLE}
    found = {
        "SERVICEBUS__CONNECTION_STRING": str(ready["connection_string"]),
        "SERVICEBUS__NAMESPACE": UNSET,
        "CLAIMS__AUTHORITY": "/".join(issuer[:_TENANT_INDEX]),
        "CLAIMS__TENANTS": json.dumps([issuer[_TENANT_INDEX]]),
        "CLAIMS__AUDIENCES": json.dumps([ready["audience"]]),
        "DATAVERSE__URL": str(ready["dataverse_url"]),
        "IDENTITY__CLIENT_ID": UNSET,
        "PLAIN_HTTP_HOSTS": json.dumps([urlsplit(str(ready["flows_url"])).netloc]),
        "FLOWS": json.dumps({name: {"url": f"{ready['flows_url']}/{name}/{_FLOW_PATH}"} | access for name in flows}),
    }
    if ready.get("admin_url"):
        found["SERVICEBUS__ADMINISTRATION_URL"] = str(ready["admin_url"])
    if file is not None and any(queue.get("authority") == "dataverse" for queue in file.request_queues):
        found["REQUEST_QUEUES"] = json.dumps([_on_emulator(queue, ready) for queue in file.request_queues])
    return {f"FLOW_WORKER_{name}": value for name, value in found.items()} | {
        "IDENTITY_ENDPOINT": str(ready["identity_endpoint"]),
        "IDENTITY_HEADER": str(ready["identity_header"]),
    }


def render(values: Mapping[str, str], form: Form) -> str:
    """Return one line for each variable, in single quotes."""
    lines = ["# Settings of flow-worker for the running emulator. They override those of flow-worker.toml."]
    for name, value in values.items():
        match form:
            case Form.ENV:
                lines.append(f"{name}='{value.replace(chr(39), chr(92) + 'u0027')}'")
            case Form.POWERSHELL:
                lines.append(f"$env:{name} = '{value.replace(chr(39), chr(39) * 2)}'")
    return "\n".join(lines) + "\n"


def missing(ready: Mapping[str, Any], file: WorkerFile) -> list[str]:
    """Return a sentence for each queue and flow of the file that the emulator lacks."""
    queues = {str(name).lower() for name in ready["queues"]}
    return [
        f"The emulator has no queue '{name}'; add it to its configuration."
        for name in file.queues
        if name.lower() not in queues
    ] + [
        f"The emulator has no flow '{name}'; add it to FlowWorker.Flows in its configuration."
        for name in file.flows
        if name not in ready["flows"]
    ]


def _on_emulator(queue: Mapping[str, Any], ready: Mapping[str, Any]) -> dict[str, Any]:
    """Return the queue with the emulator's organization, which is the only one there."""
    moved = {name: value for name, value in queue.items() if name != "dataverse_url"}
    return moved | ({"organization": ready["dataverse_organization"]} if queue.get("authority") == "dataverse" else {})


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
