"""The plug-in docs/samples/StartQuote.cs, compiled with Mono and run: it starts a flow through emulator and worker.

Only Dataverse is missing: `csharp` has stand-ins for the types of its SDK, and a host that calls the plug-in.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from flow_contracts.message import ReceivedMessage
from flow_contracts.reply_key import checked_reply_key, is_authentic, new_reply_key
from flow_contracts.result import FlowResult
from flow_contracts.servicebus import ConnectionString, ServiceBus
from flow_worker.demo.environment import ON_BEHALF, ROLE, EmulatorClient, running_worker, worker_settings
from flow_worker.demo.processes import free_port
from servicebus_emulator import config
from servicebus_emulator.cloud.entra.issuer import object_id_of
from tests.clients.harness import HERE, running
from tests.support.processes import CHECKOUT

SAMPLES = CHECKOUT / "docs" / "samples"
QUEUE = "https://contoso.servicebus.windows.net/flow-requests-plugins"
REFERENCES = ("System.Net.Http.dll", "System.Runtime.Serialization.dll")
SECONDS = 10
KEY = new_reply_key()
USER = str(object_id_of("ada"))
PLUGIN = config.load(None).http.identity.managed_identity.object_id


@dataclass(frozen=True)
class Stage:
    """The parts of the emulator that the plug-in needs."""

    emulator: EmulatorClient
    namespace: str
    bus_token: str
    folder: Path

    def run(
        self,
        url: str | None = None,
        bus_token: str | None = None,
        result_id: str | None = None,
        reply_key: str = KEY.get_secret_value(),
    ) -> str:
        """Compile the plug-in for this queue URL, run it, and return the output of the host."""
        program = compiled(self.folder, url or f"{self.namespace}/flow-requests")
        tokens = {
            "BUS_TOKEN": bus_token or self.bus_token,
            "WORKER_TOKEN": token(self.emulator, self.emulator.audience),
        }
        command = ["mono", str(program), USER, str(uuid.uuid4()), result_id or str(uuid.uuid4()), reply_key]
        process = subprocess.run(
            command, env=os.environ | tokens, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert process.returncode == 0, process.stderr
        assert not [name for name, token in tokens.items() if token in process.stdout], "a token is in the error"
        return process.stdout


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An emulator with its REST side, and a worker that is ready."""
    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("no Mono; .ci/run names the Debian packages")
    folder = tmp_path_factory.mktemp("csharp")
    with running(folder, None, "--admin-port", "0") as ready:
        emulator = EmulatorClient(**{name: ready[name] for name in EmulatorClient.__dataclass_fields__})
        with running_worker(folder, emulator, settings):
            yield Stage(emulator, ready["admin_url"], token(emulator, "https://servicebus.azure.net"), folder)


def settings(emulator: EmulatorClient, health_port: int) -> str:
    """Return the demo settings; the plug-in's identity may name a user, and its flow requires only a privilege."""
    document = worker_settings(emulator, health_port).split("[flows.create-quote-unchecked]")
    own = document[0].replace(f'asserter_role = "{ON_BEHALF}"', f'asserters = ["{PLUGIN}"]')
    own = own.replace(f'role = "{ROLE}"', 'privilege = "prvCreatenew_quote"')
    return "[flows.create-quote-unchecked]".join([own, *document[1:]])


def token(emulator: EmulatorClient, resource: str) -> str:
    """Return a token of the managed identity from its endpoint."""
    query = {"api-version": "2019-08-01", "resource": resource}
    secret = {"X-IDENTITY-HEADER": emulator.identity_header}
    answer = httpx.get(emulator.identity_endpoint, params=query, headers=secret, timeout=10).raise_for_status()
    given: str = answer.json()["access_token"]
    return given


def compiled(folder: Path, url: str) -> Path:
    """Compile the host with the sample, in which only the URL of the queue is replaced."""
    source = (SAMPLES / "StartQuote.cs").read_text(encoding="utf-8")
    assert source.count(QUEUE) == 1
    (folder / "StartQuote.cs").write_text(source.replace(QUEUE, url), encoding="utf-8")
    program = folder / "host.exe"
    sources = [folder / "StartQuote.cs", SAMPLES / "ReplyKey.cs", *sorted((HERE / "csharp").glob("*.cs"))]
    options = ["-langversion:7", "-warnaserror", f"-out:{program}", *(f"-r:{name}" for name in REFERENCES)]
    process = subprocess.run(
        ["mcs", *options, *map(str, sources)], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return program


def test_the_plugin_starts_its_flow(stage: Stage) -> None:
    correlation_id = str(uuid.uuid4())
    output = stage.run(result_id=correlation_id)
    assert output.startswith(f"MessageId {USER}/"), output
    deadline = time.monotonic() + SECONDS
    while (
        not (activity := stage.emulator.activity("create-quote", correlation_id)).calls and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert activity.calls == 1, (stage.folder / "worker.log").read_text(encoding="utf-8")
    result = asyncio.run(result_of(stage.emulator, correlation_id))
    assert is_authentic(result, KEY), "the worker got the reply key"
    FlowResult.from_message(result)
    assert checked(stage, result, KEY) == "True"
    for forged in (
        replace(result, body=result.body + b" "),
        replace(result, message_id="result-0"),
        replace(result, application_properties={**result.application_properties, "contract": "flow-result/2"}),
    ):
        assert checked(stage, forged, KEY) == "False"
    assert checked(stage, result, new_reply_key()) == "False"


async def result_of(emulator: EmulatorClient, correlation_id: str) -> ReceivedMessage:
    """Return the message of the result."""
    async with (
        ServiceBus(ConnectionString(emulator.connection_string)) as bus,
        bus.session_receiver("flow-replies", correlation_id) as session,
    ):
        delivery = await session.receive(SECONDS)
        assert delivery is not None
        return delivery.message


def checked(stage: Stage, message: ReceivedMessage, key: SecretStr) -> str:
    """Return what the sample in C# says about the MAC of a result."""
    properties = message.application_properties
    body = base64.b64encode(message.body).decode()
    arguments = [key.get_secret_value(), body, str(message.message_id)]
    arguments += [str(properties[name]) for name in ("contract", "reply_mac")]
    command = ["mono", str(stage.folder / "host.exe"), "check", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    answer, key_made = process.stdout.split()
    checked_reply_key(key_made)
    return answer


@pytest.mark.parametrize("key", ["short", "k" * 30 + "\r\nx: y", "k" * 30 + '"'])
def test_the_plugin_refuses_a_malformed_reply_key(stage: Stage, key: str) -> None:
    assert stage.run(reply_key=key).startswith("refused ReplyKey has not the form of a key.")


def test_the_plugin_reports_a_missing_queue(stage: Stage) -> None:
    assert stage.run(f"{stage.namespace}/nowhere").startswith("refused Service Bus answered 404.")


def test_the_plugin_reports_a_refused_token(stage: Stage) -> None:
    assert stage.run(bus_token=f"{stage.bus_token[:-4]}AAAA").startswith("refused Service Bus answered 401.")


def test_the_plugin_reports_an_unreachable_service_bus(stage: Stage) -> None:
    url = f"http://127.0.0.1:{free_port()}/flow-requests"
    assert stage.run(url).startswith("refused Service Bus could not be reached.")
