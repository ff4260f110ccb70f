"""The imports of a start: only the queues' libraries at first, the HTTP libraries at their first use."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage

from servicebus_emulator import config
from servicebus_emulator.cloud.entra.definitions import FLOW_AUDIENCE
from servicebus_emulator.cloud.web import running_web
from tests.support.processes import start

LARGE = {"aiohttp", "cryptography", "jsonschema", "jwt", "rich", "sqlite3"}
"""Together, these libraries would take more than half of the memory and time of a start."""
_IMPORTED = re.compile(r"^import time: *\d+ \| *\d+ \| *([A-Za-z0-9_]+)", re.MULTILINE)


@dataclass(frozen=True)
class Served:
    """A running emulator with default settings, and the interpreter's log of its imports."""

    ready: dict[str, Any]
    log: Path

    @property
    def url(self) -> str:
        return str(self.ready["flows_url"]).partition("/powerautomate")[0]

    def imported(self) -> set[str]:
        """Return the large libraries that are imported."""
        return LARGE & set(_IMPORTED.findall(self.log.read_text(encoding="utf-8")))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    log = tmp_path / "emulator.log"
    arguments = ["servicebus_emulator", "serve", "--amqp-port", "0", "--http-port", "0"]
    process = start(arguments, log, {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    try:
        assert process.popen.stdout is not None
        line = process.popen.stdout.readline()
        assert line.startswith("ready "), log.read_text(encoding="utf-8")
        assert "pydantic" in _IMPORTED.findall(log.read_text(encoding="utf-8")), "the log says what is imported"
        yield Served(json.loads(line.removeprefix("ready ")), log)
    finally:
        process.kill()


def test_a_start_with_queues_only_does_not_import_the_http_libraries(served: Served) -> None:
    assert served.imported() == set()
    with (
        ServiceBusClient.from_connection_string(served.ready["connection_string"]) as client,
        client.get_queue_sender("flow-requests") as sender,
        client.get_queue_receiver("flow-requests", max_wait_time=10) as receiver,
    ):
        sender.send_messages(ServiceBusMessage("a", message_id="1"))
        receiver.complete_message(next(receiver))
    assert served.imported() == set()


def test_the_first_http_call_loads_everything_that_it_needs(served: Served) -> None:
    with httpx.Client(timeout=30) as client:
        minted = client.post(f"{served.url}/emulator/token", json={"user": "ada"})
        assert minted.json()["access_token"].count(".") == 2
        asked = {"api-version": "2019-08-01", "resource": FLOW_AUDIENCE}
        header = {"X-IDENTITY-HEADER": served.ready["identity_header"]}
        token = client.get(served.ready["identity_endpoint"], params=asked, headers=header).json()["access_token"]
        flow = f"{served.ready['flows_url']}/create-quote/triggers/manual/paths/invoke"
        bearer = {"Authorization": f"Bearer {token}"}
        assert client.post(flow, json={"customer": "Ada", "amount": 3}, headers=bearer).json()["amount"] == 3
        refused = client.post(flow, json={"customer": "Ada", "amount": -3}, headers=bearer)
        assert refused.json()["error"]["code"] == "TriggerInputSchemaMismatch"
    assert {"aiohttp", "cryptography", "jsonschema", "jwt"} <= served.imported()


def test_a_test_with_a_service_bus_imports_only_what_that_needs() -> None:
    program = "import sys; before = set(sys.modules); import servicebus_emulator.testing; "
    program += "print(*sys.modules.keys() - before)"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert (LARGE | {"pydantic", "typer"}) & set(imported.split()) == set()


async def test_concurrent_first_calls_are_all_answered() -> None:
    async with running_web(config.load().http) as web, httpx.AsyncClient(timeout=30) as client:
        answers = await asyncio.gather(*(client.get(f"{web.url}/emulator/queues") for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20


async def test_a_first_caller_that_disconnects_does_not_fail_the_others() -> None:
    async with running_web(config.load().http) as web, httpx.AsyncClient(timeout=30) as client:
        host, port = web.url.removeprefix("http://").split(":")
        socket.create_connection((host, int(port))).close()
        assert (await client.get(f"{web.url}/emulator/queues")).status_code == 200


async def test_callers_get_an_error_and_the_log_has_the_reason_if_the_site_cannot_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> NoReturn:
        raise RuntimeError("a library is missing")

    async def called() -> None:
        async with running_web(config.load().http, routes=broken) as web, httpx.AsyncClient(timeout=30) as client:
            for _ in range(2):
                with pytest.raises(httpx.TransportError):
                    await client.get(f"{web.url}/emulator/queues")

    with pytest.raises(RuntimeError, match="a library is missing"):
        await called()
    assert "The emulator cannot serve its HTTP services." in caplog.text
    assert "a library is missing" in caplog.text
