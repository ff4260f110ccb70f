"""The check that only the worker may send to the continuation queue, over the administration API (Atom, TLS)."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from flow_contracts.servicebus import ServiceBus
from flow_worker.runtime.sole_sender import require_sole_sender
from flow_worker.service_bus import open_service_bus
from flow_worker.settings import InvalidSettings, ServiceBusSettings
from servicebus_emulator import config
from servicebus_emulator.host import Endpoints, running_emulator
from servicebus_emulator.transport.tls import CertificateFiles

QUEUE = "flow-continuations"


@asynccontextmanager
async def bus(folder: Path, monkeypatch: pytest.MonkeyPatch, ours: str, **policies: str) -> AsyncIterator[ServiceBus]:
    """Yield a bus with the right `ours`, and a queue with these policies, each of which has one right."""
    rules = [{"KeyName": name, "Rights": [right], "PrimaryKey": name} for name, right in policies.items()]
    own = {"KeyName": "worker", "Rights": [ours], "PrimaryKey": "worker"}
    queue = {"Name": QUEUE, "AuthorizationRules": rules}
    namespace = {"Name": "ns", "AuthorizationRules": [own], "Queues": [queue]}
    document = json.dumps({"UserConfig": {"Namespaces": [namespace]}})
    endpoints = Endpoints("127.0.0.1", 0, 0, admin_https_port=0, certificates=CertificateFiles(folder))
    async with running_emulator(config.parse(document), endpoints) as emulator:
        # aiohttp reads the machine's trusted certificates once, when it is imported; for this test ours is one of them.
        trusted = ssl.create_default_context(cafile=emulator.addresses.ca_certificate)
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusted)
        host = urlsplit(emulator.admin_https_url or "").netloc
        text = f"Endpoint=sb://{host}/;SharedAccessKeyName=worker;SharedAccessKey=worker"
        async with open_service_bus(ServiceBusSettings(connection_string=SecretStr(text), open_seconds=5)) as one:
            yield one


async def test_the_worker_does_not_start_if_another_policy_may_send_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus(tmp_path, monkeypatch, "Manage", reader="Listen", portal="Send") as one:
        with pytest.raises(InvalidSettings, match=r"policies portal of .*remove their Send and Manage rights"):
            await require_sole_sender(one, QUEUE, "where-readable")


async def test_the_worker_starts_if_only_its_policy_may_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bus(tmp_path, monkeypatch, "Manage", reader="Listen", worker="Send") as one:
        await require_sole_sender(one, QUEUE, "required")


async def test_unreadable_policies_stop_the_worker_only_if_the_settings_require_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bus(tmp_path, monkeypatch, "Listen", portal="Send") as one:
        await require_sole_sender(one, QUEUE, "where-readable")
        with pytest.raises(InvalidSettings, match="cannot be read"):
            await require_sole_sender(one, QUEUE, "required")
